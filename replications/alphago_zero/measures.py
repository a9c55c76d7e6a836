"""What the claims are about, measured once training is over: mistakes against the exact solution, games against other
opponents, ratings, and games to look at. All of it without noise: the most visited move.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file as load_weights
from safetensors.torch import save as save_tensors
from torch import nn

from common.runs.laptop import Findings
from common.say import say
from replications.alphago_zero.games import Game, make_game, sgf, winner
from replications.alphago_zero.opponents import MCTS, GnuGo, contest, elo, gnu_go, tournament
from replications.alphago_zero.plumbing import Log, for_search
from replications.alphago_zero.train import Config, Network, Player, search
from replications.alphago_zero.trees import Trees

MEASURED = 1_000  # of the seed of all that is measured
CHUNK = 256  # positions that are searched side by side
MOST_LINES = 20_000  # of a walk; a player who lets it grow beyond has not solved the game
MCTS_SIMULATIONS, GNU_GO_LEVEL = 10_000, 10
NAMES = {"mcts": "OpenSpiel's MCTS", "gnu_go": "GNU Go"}
TOURNAMENT = ("elo_gain", "elo_of_search")  # measures of games between checkpoints
OTHERS = ("early_lines", "early_won", "black_mcts", "white_mcts", "black_gnu_go", "white_gnu_go")
FIGURES = {  # a row of the log: its figure
    "black_share": "self_play", "first_move_center": "self_play", "empty_board": "empty_board", "loss": "loss",
    "moves": "moves", "gate": "gate",
}  # fmt: skip


class Trained:
    """The players of one training. rng: of all that is measured."""

    def __init__(self, config: Config, game: Game, best: nn.Module, log: Log, rng: np.random.Generator):
        self.config, self.game, self.best, self.log, self.rng = config, game, best, log, rng

    def player(
        self, network: nn.Module | None = None, simulations: int = 0, opening_moves: int = 0
    ) -> Player:
        c = self.config
        return Player(c, network or self.best, simulations or c.test_simulations, self.rng, opening_moves)

    def earlier(self) -> Iterator[tuple[int, nn.Module]]:
        """(games of self-play, the best player's network then)."""
        for number in sorted(self.log.kept, key=int):
            network = copy.deepcopy(self.best)
            network.load_state_dict(self.log.kept[number])
            yield min(int(number) * self.config.games_per_checkpoint, self.config.games), network

    def answers(self, lines: Sequence[Sequence[int]], simulations: int) -> np.ndarray:
        """The moves after each of these lines, every one searched afresh; (n,)."""
        c, found = self.config, []
        for begin in range(0, len(lines), CHUNK):
            chunk = lines[begin : begin + CHUNK]
            trees = Trees(self.game, len(chunk), c.history, simulations + 1)
            for g, line in enumerate(chunk):
                trees.plant(g, *self.game.replay(line))
            visits = search(trees, np.arange(len(chunk)), self.best, c, self.rng, simulations)
            found.append(visits.argmax(axis=1))
        return np.concatenate(found)


def measure(config: Config, game: Game, best: nn.Module, log: Log, seed: int) -> Findings:
    trained = Trained(config, game, best, log, np.random.default_rng([seed, MEASURED]))
    rows, undecided, table, games = log.rows, {}, {}, []
    measures = {
        name: rows[name][-1] for name in ("games", "black_share", "first_move_center", "empty_board", "loss")
    }
    points = [
        (figure, name.replace("_", " "), x, y)
        for name, figure in FIGURES.items()
        for x, y in zip(rows["games"], rows[name], strict=True)
        if name != "gate" or y >= 0  # -1: no gate
    ]
    measures |= solved(trained)
    large = config.game == "go" and config.board > 3
    if config.test_games:
        say("the tournament of checkpoints")
        earlier = list(trained.earlier())
        players = [trained.player(net, config.simulations, config.opening_moves) for _, net in earlier]
        players.append(trained.player(None, 1, config.opening_moves))
        won, played = tournament(game, players, config.test_games)
        ratings = elo(won, played)
        names = [*(f"{count:,} games" for count, _ in earlier), "last, no search"]
        table = {"names": names, "points": won.tolist(), "games": config.test_games, "elo": ratings.tolist()}
        points += [("elo", "with search", count, r) for (count, _), r in zip(earlier, ratings, strict=False)]
        points += [("elo", "last network without search", count, ratings[-1]) for count, _ in earlier]
        measures |= {"elo_gain": ratings[-2] - ratings[0], "elo_of_search": ratings[-2] - ratings[-1]}
        if large:
            found, undecided, games = against_others(trained, seed)
            measures |= found
    else:
        names = [*TOURNAMENT, *(OTHERS if large else ())]
        undecided = dict.fromkeys(names, "no games were played (--test-games 0)")
    games += [look(trained, "the last player against itself", trained.player())]
    games += [
        from_self_play(game, f"self-play with noise, {log.rows['games'][-1]:.0f} games", g)
        for g in log.games[-3:]
    ]
    content = {"game": config.game, "size": game.size, "komi": game.komi, "tournament": table, "games": games}
    weights = {name: value.contiguous() for name, value in best.state_dict().items()}
    files = {
        "model.safetensors": save_tensors(weights),
        "board.json": (json.dumps(content, separators=(",", ":")) + "\n").encode(),
    }
    return Findings(measures, points, undecided, files)


# --- against the exact solution ---


def solved(trained: Trained) -> dict[str, float]:
    """What can be said of the player exactly: in tic-tac-toe and on 3x3, where every state is known."""
    config, found = trained.config, {}
    if config.game == "tic_tac_toe":
        say("every state of tic-tac-toe that is not lost")
        lines, values = not_lost()
        for name, simulations in (("mistakes", config.test_simulations), ("mistakes_no_search", 1)):
            moves = zip(lines, trained.answers(lines, simulations), strict=True)
            found[name] = float(sum(values[(*line, action)] < 0 for line, action in moves))
        found["mistakes_without_less_with"] = found["mistakes_no_search"] - found["mistakes"]
    elif config.board <= 3:
        say("every reply of White")
        for name, simulations in (("search", config.test_simulations), ("no_search", 1)):
            ends, won, _ = walk(trained, simulations)
            found |= {f"lines_{name}": float(ends), f"not_won_{name}": float(ends - won)}
    return found


def check_again(config: Config, seed: int, folder: Path) -> dict[str, float]:
    """The exact measures, taken again from the weights that a run left in `folder`; none for a game that is not solved."""
    game = make_game(config)
    best = for_search(Network(config, game))
    best.load_state_dict(load_weights(folder / "model.safetensors"))
    return solved(Trained(config, game, best, None, np.random.default_rng([seed, MEASURED])))


def not_lost() -> tuple[list[tuple[int, ...]], dict[tuple[int, ...], int]]:
    """A line to each state of tic-tac-toe that is neither over nor lost for who is to move: 3,888 of 4,520.

    And the value, for who played the last move, of each such line and each action: 1 won, 0 drawn, -1 lost.
    """
    game = Game("tic_tac_toe")
    lines: dict[bytes, tuple[int, ...]] = {}
    solved: dict[bytes, int] = {}

    def key(state: Any) -> bytes:
        return game.board(state).tobytes()

    def value(state: Any, line: tuple[int, ...]) -> int:
        """Of the state, for who is to move."""
        if (board := key(state)) not in solved:
            lines[board] = line
            if state.is_terminal():
                solved[board] = winner(state) * (1 - 2 * (len(line) % 2))
            else:
                solved[board] = max(-value(state.child(a), (*line, a)) for a in state.legal_actions())
        return solved[board]

    value(game.start(), ())
    found, values = [], {}
    for board, line in lines.items():
        state = game.replay(line)[0]
        if not state.is_terminal() and solved[board] >= 0:
            found.append(line)
            values |= {(*line, a): -solved[key(state.child(a))] for a in state.legal_actions()}
    return found, values


def walk(
    trained: Trained, simulations: int, replies: int | None = None
) -> tuple[int, int, list[tuple[int, ...]]]:
    """Black is the player, and White replies with every legal move. -> lines that ended, those that Black won, some that it did not.

    replies: after that many of White's, White is the player's search as well. What goes beyond MOST_LINES counts as not won.
    """
    ends, won, lost, lines = 0, 0, [], [()]
    while lines and ends + len(lines) <= MOST_LINES:
        to_move = []
        for line, action in zip(lines, trained.answers(lines, simulations), strict=True):
            line = (*line, int(action))
            state = trained.game.replay(line)[0]
            white = len(line) % 2 == 1 and not state.is_terminal()
            every = white and (replies is None or len(line) // 2 < replies)
            following = [(*line, a) for a in state.legal_actions()] if every else [line]
            for found in following:
                state = trained.game.replay(found)[0]
                if not state.is_terminal():
                    to_move.append(found)
                    continue
                ends += 1
                if winner(state) > 0:
                    won += 1
                elif len(lost) < 5:
                    lost.append(found)
        lines = to_move
    return ends + len(lines), won, lost


# --- against other opponents ---


def against_others(trained: Trained, seed: int) -> tuple[dict[str, float], dict[str, str], list[dict]]:
    """Points in games against OpenSpiel's MCTS and GNU Go, and as Black against every early reply; what was not measured; games."""
    c, found, why, games = trained.config, {}, {}, []
    replies = 2 if c.board <= 5 else 1  # on 9x9 two replies are more than 6,000 games
    say(f"as Black against every move of White in the first {2 * replies} plies")
    ends, won, lost = walk(trained, c.test_simulations, replies=replies)
    found |= {"early_lines": float(ends), "early_won": won / ends}
    games += [replayed(trained.game, "White's early move that was not met", line) for line in lost]
    opponents = {"mcts": MCTS(MCTS_SIMULATIONS, seed)}
    if gnu_go():
        opponents["gnu_go"] = GnuGo(GNU_GO_LEVEL, 1_000 * seed)
    else:
        missing = "GNU Go is not installed here (Debian: apt-get install gnugo)"
        why |= {"black_gnu_go": missing, "white_gnu_go": missing}
    for name, opponent in opponents.items():
        say(f"against {name}")
        for side, number in (("black", 0), ("white", 1)):
            players = [trained.player(), opponent]
            results, moves = contest(trained.game, players[:: 1 - 2 * number], c.test_games, alternate=False)
            found[f"{side}_{name}"] = float((results * (1 - 2 * number) + 1).mean() / 2)
            title = f"the last player ({side.title()}) against {NAMES[name]}"
            games.append(annotated(trained.game, title, moves[0], players[0].notes[0]))
        opponent.close()
    return found, why, games


# --- games to look at ---


def look(trained: Trained, title: str, player: Player) -> dict:
    _, moves = contest(trained.game, [player, player], 1, alternate=False)
    return annotated(trained.game, title, moves[0], player.notes[0])


def annotated(
    game: Game, title: str, actions: Sequence[int], notes: dict[int, tuple[list[int], float]]
) -> dict:
    """A game as the page shows it. notes: ply -> (visits of the moves, value for who is to move), where the player moved."""
    state = game.replay(actions)[0]
    comments = [
        f"{notes[ply][0][action]} of {sum(notes[ply][0])} visits, value {notes[ply][1]:+.2f}"
        if ply in notes
        else ""
        for ply, action in enumerate(actions)
    ]
    found = {
        "title": title, "actions": [int(a) for a in actions], "names": [game.action_name(a) for a in actions],
        "result": winner(state), "boards": ["".join(".XO"[v] for v in board) for board in game.replay(actions)[1]],
        "visits": [notes[ply][0] if ply in notes else None for ply in range(len(actions))],
        "values": [round(notes[ply][1], 3) if ply in notes else None for ply in range(len(actions))],
    }  # fmt: skip
    if game.name == "go":
        found["sgf"] = sgf(game, actions, found["result"], title, "", comments)
    return found


def replayed(game: Game, title: str, actions: Sequence[int]) -> dict:
    return annotated(game, title, actions, {})


def from_self_play(game: Game, title: str, played: dict) -> dict:
    found = replayed(game, title, played["actions"])
    values = [round(float(v), 3) for v in played["values"]]
    return found | {"values": values, "result": played["result"]}
