"""What is kept of a filmed episode: that it is what the network said, and that listening changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from common.environments.vector import GymEnvs
from common.errors import UserError
from common.evaluation import protocol as final_evaluation
from common.evaluation.filming import FILE, ActionValues, action_names, listening, preferences, write_values
from common.evaluation.protocol import Episode, play_group, seed_score
from common.evaluation.video import frame_count
from common.runs import record as recording
from tests.common.runs.test_record import make_run
from tests.reports.pages import film

Heads = namedtuple("Heads", "outputs values log_std", defaults=[None])
LOGITS = torch.tensor([[0.0, np.log(3.0)], [1.0, 1.0]])


def test_what_a_network_returns_is_told_apart():
    kind, table = preferences(LOGITS, 2)
    assert (kind, table.tolist()) == ("values", LOGITS.double().tolist())
    assert (
        preferences((LOGITS, None, torch.zeros(2, 2, 3)), 2)[0] == "values"
    )  # n-step Q-learning, with its LSTM's state
    for heads in (Heads(LOGITS, torch.zeros(2)), (LOGITS, torch.zeros(2), None)):
        kind, table = preferences(heads, 2)
        assert kind == "probabilities"
        assert table == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))
    for other in (
        Heads(LOGITS, torch.zeros(2), torch.zeros(2)),
        LOGITS[:, :1],
        LOGITS[0],
        None,
        (LOGITS,),
        (),
    ):
        assert preferences(other, 2)[0] is None


def test_the_whole_network_is_heard_and_nothing_stays_behind():
    inner = nn.Linear(3, 4)
    whole = nn.Sequential(inner, nn.ReLU(), nn.Linear(4, 2))
    x = torch.ones(5, 3)
    with listening() as heard:
        expected = whole(x)
        assert heard[0] is expected
    with pytest.raises(ZeroDivisionError), listening() as heard:
        whole(1 / 0)
    inner(x)
    assert heard == []
    with listening(False) as heard:
        whole(x)
    assert heard == []


def test_rows_are_the_networks_and_filming_changes_no_episode():
    """Two episodes of CartPole, the second one filmed; epsilon 0.3, so some actions are not the best."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    seen: list[np.ndarray] = []

    @torch.no_grad()
    def policy(states, rngs):
        seen.append(states.copy())
        return net(torch.from_numpy(states)).argmax(dim=1).numpy()

    seeds = np.array([5, 6])
    plain = play_group(policy, GymEnvs("CartPole-v1", 2, 0), 2, seeds, 0.3)
    seen.clear()
    filmed = play_group(policy, GymEnvs("CartPole-v1", 2, 0), 2, seeds, 0.3, film=1)
    assert [e.as_row() for e in filmed] == [e.as_row() for e in plain]
    assert plain[0].action_values is None
    action_values = filmed[1].action_values
    length = filmed[1].length
    assert (action_values.kind, len(action_values.rows), len(filmed[1].screens)) == ("values", length, length)
    with torch.no_grad():
        expected = [net(torch.from_numpy(states))[1].double().numpy() for states in seen[:length]]
    assert np.array(action_values.rows) == pytest.approx(np.array(expected))
    best = [int(row.argmax()) for row in action_values.rows]
    odd = sum(a != b for a, b in zip(best, action_values.played, strict=True))
    assert 0 < odd < length / 2
    # what was played is what moved the pole: the same actions again end at the same step
    envs = GymEnvs("CartPole-v1", 1, 0)
    envs.reset(seeds[1:])
    steps = [envs.step(np.array([a])) for a in action_values.played]
    assert [bool(s.done[0]) for s in steps] == [False] * (length - 1) + [True]


def test_a_row_that_is_missing_spoils_all():
    action_values = ActionValues()
    action_values.add(LOGITS, 1, 2, np.int64(0))
    action_values.add(torch.tensor([[1.0, 2.0], [np.nan, 1.0]]), 1, 2, np.int64(0))
    action_values.add(LOGITS, 1, 2, np.int64(0))
    assert action_values.kind is None


def test_only_what_a_page_plays_is_kept_and_rounded(tmp_path):
    action_values = ActionValues(
        "values", [np.array([i / 7, -1e-7]) for i in range(1000)], [i % 2 for i in range(1000)]
    )
    write_values(
        tmp_path, ["NOOP", "FIRE"], {"median": (4, action_values), "best": (2, ActionValues())}, "ab"
    )
    content = json.loads((tmp_path / FILE).read_text())
    entry = content["films"].pop("median")
    assert content == {
        "kind": "values",
        "fps": 15,
        "actions": ["NOOP", "FIRE"],
        "weights_sha256": "ab",
        "films": {},
    }
    assert (entry["episode"], len(entry["values"]), len(entry["played"])) == (4, 675, 675)
    assert entry["values"][1] == [0.1429, -1e-7]
    assert entry["played"][:3] == [0, 1, 0]
    write_values(tmp_path, ["NOOP", "FIRE"], {"median": (4, ActionValues())}, "ab")
    assert list(tmp_path.iterdir()) == [], "of an earlier evaluation"


def test_actions_have_the_emulators_names():
    task = SimpleNamespace(kind="atari", game="pong")
    assert action_names(task, 6) == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
    assert action_names(SimpleNamespace(kind="gym", env_id="CartPole-v1"), 2) == ["push left", "push right"]
    assert action_names(SimpleNamespace(kind="gym", env_id="Other-v0"), 3) == [
        "action 0",
        "action 1",
        "action 2",
    ]


# --- how many episodes a score is made of ---


def test_a_score_says_of_how_many_episodes_it_is(tmp_path, capsys):
    played = [Episode(1, 3.0, 9), Episode(2, 5.0, 9)]
    run = {"result": {"best_score": 7.0}}

    def score(kind: str, ended: int | None = None, run: dict = run):
        if ended is not None:
            rows = [f"{i},{i},{i},{i},1" for i in range(1, ended + 1)]
            (tmp_path / "episodes.csv").write_text(
                "\n".join(["episode,agent_steps,frames,score,length", *rows]) + "\n"
            )
        return seed_score(kind, run, played, tmp_path)

    assert score("evaluation_mean") == (4.0, "evaluation_mean", 2)
    assert score("best_phase") == (7.0, "best_phase", None)
    assert score("best_phase", run={"result": {"best_score": None}}) == (4.0, "evaluation_mean", 2)
    assert score("last_100_episodes", 37) == (19.0, "last_100_episodes", 37)
    assert score("last_100_episodes", 100) == (50.5, "last_100_episodes", 100)
    assert score("last_100_episodes", 250) == (200.5, "last_100_episodes", 100)
    assert score("last_100_episodes", 0) == (4.0, "evaluation_mean", 2)
    assert "no training episode ended" in capsys.readouterr().out


# --- recorded runs filmed anew ---


def anew(folder: Path, score: float = 10.0, **changes) -> dict:
    """Stands in for the evaluation of today's code: the same episodes with more in them, and films."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    episodes = [
        {"seed": 5 + i, "score": score - 1 + 2 * i, "length": 9, "discounted_return": 1.5} for i in (0, 1)
    ]
    result = {
        "score": score,
        "episodes": episodes,
        "extra_episodes": [],
        "weights_sha256": digest,
        "protocol": {},
    }
    result |= changes
    (folder / "evaluation.json").write_text(json.dumps(result))
    (folder / "episode.mp4").write_bytes(film(15 * 50))
    (folder / "best.mp4").write_bytes(film(15))
    (folder / FILE).write_text("{}")
    return result


def test_recorded_runs_are_filmed_anew_only_if_every_episode_comes_out_the_same(tmp_path, monkeypatch):
    folder = make_run(tmp_path)
    shutil.copytree(folder, tmp_path / "before")

    def files() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.iterdir()}

    before = files()
    other = [{"seed": 5, "score": 9.0, "length": 9}, {"seed": 6, "score": 11.0, "length": 8}]
    for changes in ({"episodes": other}, {"score": 10.5}, {"extra_episodes": other}):
        monkeypatch.setattr(
            final_evaluation, "evaluate_run", lambda f, d, changes=changes: anew(f, **changes)
        )
        with pytest.raises(UserError, match="nothing was changed"):
            recording.refilm(folder)
        assert files() == before

    monkeypatch.setattr(final_evaluation, "evaluate_run", lambda f, d: anew(f))
    for _ in range(2):
        recording.refilm(folder)
    after = files()
    assert set(after) - set(before) == {"best.mp4", FILE}
    assert {name for name in before if before[name] != after[name]} == {
        "evaluation.json",
        "episode.mp4",
        "run.json",
    }
    assert frame_count(folder / "episode.mp4") == 45 * 15
    assert json.loads(after["evaluation.json"])["episodes"][0]["discounted_return"] == 1.5
    notes = json.loads(after["run.json"])["provenance"]["notes"]
    assert notes == ["earlier", "evaluated anew for its films: all 2 episodes came out as recorded"]
