"""Whole runs: killed and resumed they end with the same bytes; worker processes; what a run leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common import papers
from common.errors import UserError
from common.runs.laptop import check_claims
from replications.alphago_zero import measures, opponents, plumbing, train
from replications.alphago_zero.measures import Trained, measure, walk
from tests.replications.alphago_zero.test_train import TINY

ROOT = Path(__file__).parents[3]
GO = dict(game="go", board=3, komi=8.5, simulations=4, test_simulations=4)


class Stopped(Exception):
    pass


def trained(kept, **changes):
    _, best, log = train.train(train.Config(**(TINY | GO | changes)), 1, kept)
    state = log.state_dict()
    weights = torch.cat([p.flatten() for p in best.parameters()])
    return weights, state["rows"], state["games"], state["kept"]


def same(a, b) -> bool:
    weights = all(torch.equal(a[3][k][name], b[3][k][name]) for k in a[3] for name in a[3][k])
    return torch.equal(a[0], b[0]) and a[1:3] == b[1:3] and a[3].keys() == b[3].keys() and weights


@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_anywhere_and_resumed_ends_with_the_same_bytes(tmp_path, monkeypatch, workers):
    """Games are in flight at a checkpoint, and go on with their trees."""
    whole = trained(None, workers=workers)
    monkeypatch.setattr(plumbing, "CHECKPOINT_SECONDS", 0.0)
    real, calls = train.is_better, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) in (2, 4):  # in the middle of the second checkpoint, and of the third
            raise Stopped
        return real(*arguments)

    monkeypatch.setattr(train, "is_better", stopping)
    for _ in range(2):
        with pytest.raises(Stopped):
            trained(tmp_path, workers=workers)
    assert same(trained(tmp_path, workers=workers), whole)
    assert len(calls) == 5  # three checkpoints, two of them twice
    assert whole[1]["games"] == [8, 16, 24]


def test_other_seeds_differ():
    a = train.train(train.Config(**(TINY | GO)), 1)[2].rows
    b = train.train(train.Config(**(TINY | GO)), 2)[2].rows
    assert a != b


def test_a_checkpoint_of_other_code_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(plumbing, "CHECKPOINT_SECONDS", 0.0)
    trained(tmp_path)
    monkeypatch.setattr(plumbing, "code_fingerprint", lambda _: "0" * 64)
    with pytest.raises(UserError, match="belongs to key"):
        trained(tmp_path)


def test_learning_changes_the_learner_and_the_gate_keeps_the_best(monkeypatch):
    before = trained(None, gate=True, gate_share=1.0)
    first, last = before[3]["0"], before[3][max(before[3], key=int)]
    assert all(torch.equal(first[name], last[name]) for name in first)  # nobody wins more than all points
    after = trained(None, gate=False)
    assert any(not torch.equal(after[3]["0"][name], after[3]["3"][name]) for name in after[3]["0"])
    assert before[1]["loss"] != after[1]["loss"]


def test_measures_points_and_games_of_a_run(monkeypatch):
    monkeypatch.setattr(measures, "MOST_LINES", 200)  # an untrained player's walk has no end
    monkeypatch.setattr(measures, "elo", lambda won, played: 10.0 ** np.arange(len(won)))
    config = train.Config(**(TINY | GO | {"test_games": 2}))
    found = measure(config, *train.train(config, 1), 1)
    assert {"not_won_search", "lines_search", *measures.TOURNAMENT, "first_move_center"} <= set(
        found.measures
    )
    assert not found.undecided
    assert 0 <= found.measures["not_won_search"] <= found.measures["lines_search"]
    figures = {point[0] for point in found.points}
    assert figures == {"self_play", "empty_board", "loss", "moves", "gate", "elo"}
    board = json.loads(found.files["board.json"])
    assert board["tournament"]["names"][-1] == "last, no search"
    # of no games, after the first and the third checkpoint, and without search
    assert board["tournament"]["elo"] == [1, 10, 100, 1000]
    assert (found.measures["elo_gain"], found.measures["elo_of_search"]) == (99, -900)
    for game in board["games"]:
        assert len(game["boards"]) == len(game["actions"]) + 1
        assert "(;GM[1]" in game["sgf"]
    first = board["games"][0]
    assert sum(first["visits"][0]) == config.test_simulations - 1


@pytest.mark.parametrize(("task", "board"), [("go_3x3", 2), ("go_5x5", 4)])
def test_without_games_the_claims_about_games_are_open(task, board, monkeypatch):
    """`--test-games 0` is a run like any other: what needs games is not measured, and says so."""
    monkeypatch.setattr(measures, "MOST_LINES", 200)
    task = papers.load_paper("alphago_zero").tasks[task]
    config = train.Config(**(TINY | GO | {"board": board, "komi": 0.5, "longest_game": 8}))
    found = measure(config, *train.train(config, 1), 1)
    check_claims(task, found.measures, found.undecided)
    open_claims = [claim.measure for claim in task.claims if claim.measure in found.undecided]
    assert "elo_gain" in open_claims
    assert all("--test-games 0" in found.undecided[name] for name in open_claims)
    assert not set(found.measures) & set(found.undecided)


def test_the_exact_measures_come_out_again_from_the_weights_that_were_left(tmp_path):
    config = train.Config(**(TINY | {"simulations": 4, "test_simulations": 6}))
    found = measure(config, *train.train(config, 3), 3)
    (tmp_path / "model.safetensors").write_bytes(found.files["model.safetensors"])
    again = measures.check_again(config, 3, tmp_path)
    assert {"mistakes", "mistakes_no_search", "mistakes_without_less_with"} == set(again)
    assert again["mistakes"] > 0  # hardly anything was learned
    assert {name: found.measures[name] for name in again} == again
    other = plumbing.for_search(train.Network(config, train.make_game(config)))
    save_file(other.state_dict(), tmp_path / "model.safetensors")
    assert measures.check_again(config, 3, tmp_path) != again


def test_the_best_moves_are_no_mistakes(monkeypatch):
    """Though many of them win nothing: they keep a draw."""
    _, values = solution = measures.not_lost()
    monkeypatch.setattr(measures, "not_lost", lambda: solution)

    class Optimal(Trained):
        def answers(self, lines, simulations):
            return np.array([max(range(9), key=lambda a: values.get((*line, a), -2)) for line in lines])

    found = measures.solved(Optimal(train.Config(**TINY), None, None, None, None))
    assert (found["mistakes"], found["mistakes_no_search"]) == (0, 0)


def test_a_walk_meets_every_reply_of_white():
    """Against the walk's count by hand: a Black who always passes meets every line of White's, and wins none at komi 8.5."""
    config = train.Config(**(TINY | {"game": "go", "board": 2, "komi": 0.5}))
    game = train.make_game(config)

    class Passes(Trained):
        def answers(self, lines, simulations):
            return np.array([game.cells for _ in lines])

    player = Passes(config, game, None, None, None)
    ends, won, lost = walk(player, 1)

    def count(line):
        state, _ = game.replay(line)
        if state.is_terminal():
            return 1
        return (
            sum(count((*line, a)) for a in state.legal_actions())
            if len(line) % 2
            else count((*line, game.cells))
        )

    assert ends == count(())
    assert won < ends
    assert lost


def test_points_against_others_are_the_players(monkeypatch):
    """Black wins every game: the player has all points as Black, and none as White."""

    def won_by_black(game, players, games, alternate):
        for player in players:
            player.start(game, games)
        return np.ones(games), [[]] * games

    monkeypatch.setattr(measures, "contest", won_by_black)
    monkeypatch.setattr(measures, "walk", lambda *_, **__: (1, 1, []))
    monkeypatch.setattr(measures, "gnu_go", lambda: None)
    config = train.Config(**(TINY | GO | {"test_games": 2}))
    player = Trained(config, train.make_game(config), None, None, np.random.default_rng(0))
    found, *_ = measures.against_others(player, 1)
    assert (found["black_mcts"], found["white_mcts"]) == (1, 0)


@pytest.mark.parametrize("installed", [True, False])
def test_games_against_others_and_what_cannot_be_measured_says_why(monkeypatch, installed):
    if installed and opponents.gnu_go() is None:
        pytest.skip("GNU Go is not installed")
    if not installed:
        monkeypatch.setattr(measures, "gnu_go", lambda: None)
    monkeypatch.setattr(measures, "MCTS_SIMULATIONS", 5)
    monkeypatch.setattr(measures, "GNU_GO_LEVEL", 1)
    config = train.Config(**(TINY | GO | {"board": 4, "komi": 0.5, "longest_game": 8, "test_games": 2}))
    game = train.make_game(config)
    torch.manual_seed(0)
    best = plumbing.for_search(train.Network(config, game))
    player = Trained(config, game, best, None, np.random.default_rng(0))
    found, why, games = measures.against_others(player, 1)
    expected = {"early_lines", "early_won", "black_mcts", "white_mcts"}
    names = {"black_gnu_go", "white_gnu_go"}
    assert set(found) == expected | (names if installed else set())
    assert set(measures.OTHERS) == expected | names
    assert set(why) == (set() if installed else names)
    assert all("not installed" in words for words in why.values())
    assert all(0 <= found[name] <= 1 for name in found if name != "early_lines")
    titles = [game["title"] for game in games]
    assert "the last player (White) against OpenSpiel's MCTS" in titles
    white = games[titles.index("the last player (White) against OpenSpiel's MCTS")]
    assert [v is None for v in white["visits"][:4]] == [
        True,
        False,
        True,
        False,
    ]  # visits where the player moved


@pytest.mark.skipif(opponents.gnu_go() is None, reason="GNU Go is not installed")
def test_gnu_go_plays_legal_moves_and_sees_ours():
    game, player = train.make_game(train.Config(board=5, komi=24.5)), opponents.GnuGo(1, 1)
    player.start(game, 1)
    try:
        line = []
        for ply in range(6):
            action = int(player.choose(np.zeros(1, int))[0]) if ply % 2 == 0 else [0, 4, 20][ply // 2]
            assert action in game.replay(line)[0].legal_actions()
            line.append(action)
            player.played(0, action)
        stones = player.say(0, "list_stones white").lower().split()
        assert set(stones) <= {"a1", "e1", "a5"}
        assert stones
    finally:
        player.close()


COMMAND = """
import sys
from replications.alphago_zero import plumbing, train
plumbing.CHECKPOINT_SECONDS = 0.0
sys.argv[0] = "train"
train.main("alphago_zero", "train", train.Config, train.experiment, keeps=True, files=("model.safetensors", "board.json"))
"""


@pytest.mark.slow
def test_a_killed_command_resumed_leaves_the_same_files(tmp_path):
    def start(results):
        arguments = ["--task", "go_3x3", "--budget", "smoke", "--results", str(results), "--test-games", "0"]
        return subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], cwd=ROOT, env=os.environ)

    assert start(tmp_path / "whole").wait() == 0
    killed = start(tmp_path / "killed")
    while not list((tmp_path / "killed").rglob("step-*/manifest.json")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "killed").rglob("measures.json"))
    assert start(tmp_path / "killed").wait() == 0
    (a,), (b,) = (
        [p.parent for p in (tmp_path / name).rglob("seed1/run.json")] for name in ("whole", "killed")
    )
    for name in ("measures.json", "points.csv", "model.safetensors", "board.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def test_every_update_has_its_rate_and_its_turns(monkeypatch):
    """The rate falls over the whole training, and positions are turned in all eight ways, or not at all without symmetries."""
    real, seen = train.update, []

    def update(learner, optimiser, game, batch, turns, l2, rate):
        seen.append((rate, set(turns.tolist())))
        return real(learner, optimiser, game, batch, turns, l2, rate)

    monkeypatch.setattr(train, "update", update)
    for symmetries in (True, False):
        seen.clear()
        c = train.Config(**(TINY | {"symmetries": symmetries, "simulations": 2, "batch_size": 32}))
        train.train(c, 1)
        assert [rate for rate, _ in seen] == [train.learning_rate(k, c) for k in range(6)]
        assert seen[0][0] > seen[-1][0]
        assert set.union(*(turns for _, turns in seen)) == (set(range(8)) if symmetries else {0})


def test_who_wins_the_gate_is_the_best_player(monkeypatch):
    winners = []

    def contest(game, players, games, **options):
        winners.append([p.clone() for p in players[0].network.parameters()])
        return np.ones(games), []

    monkeypatch.setattr(train, "contest", contest)
    _, best, log = train.train(train.Config(**(TINY | {"simulations": 2, "gate": True})), 1)
    assert log.rows["gate"] == [1.0] * 3
    for mine, won in zip(best.parameters(), winners[-1], strict=True):
        assert torch.equal(mine, won)
