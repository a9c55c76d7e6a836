"""Games of self-play: those in flight, those that ended, and the window of positions that is learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from replications.alphago_zero.games import Game
from replications.alphago_zero.trees import Trees


class Record(NamedTuple):
    """One game of self-play. actions (n,); policies (n, A): the pi of each move; result: Black's, 1, 0 or -1.

    lowest (2,): the lowest that Black's and White's value came to; resigned, could_resign: whether it did, or might have.
    values (n,): the root's, of who was to move. worker: which process played it.
    """

    worker: int
    actions: np.ndarray
    policies: np.ndarray
    values: np.ndarray
    result: int
    lowest: np.ndarray
    resigned: bool
    could_resign: bool


class GamesInFlight:
    """What self-play holds between two moves: trees, the moves so far, generator and count. All of it is state.

    lowest (games, 2): the lowest that Black's and White's value came to. may_resign (games,): False for those played out.
    """

    def __init__(self, trees: Trees, index: int, rng: np.random.Generator, played_out: float):
        count = len(trees.states)
        self.trees, self.index, self.rng, self.share_played_out, self.finished = (
            trees,
            index,
            rng,
            played_out,
            0,
        )
        self.moves: list[list[tuple]] = [[] for _ in range(count)]  # (action, pi, value) of each
        self.lowest, self.may_resign = np.ones((count, 2)), rng.random(count) >= played_out

    def wants(self, games: int) -> bool:
        return self.finished < games

    def note(self, g: int, action: int, policy: np.ndarray, value: float, worth: float) -> int:
        """A move, and whose it is: 0 Black's, 1 White's."""
        player = len(self.moves[g]) % 2
        self.lowest[g, player] = min(self.lowest[g, player], worth)
        self.moves[g].append((action, policy, value))
        return player

    def end(self, g: int, result: int, resigned: bool) -> Record:
        """Game g is over, and a new one begins."""
        columns = (np.array(column) for column in zip(*self.moves[g], strict=True))
        record = Record(
            self.index, *columns, result, self.lowest[g].copy(), bool(resigned), bool(self.may_resign[g])
        )
        self.moves[g], self.lowest[g] = [], 1
        self.may_resign[g] = self.rng.random() >= self.share_played_out
        self.trees.restart(g)
        self.finished += 1
        return record

    def state_dict(self) -> dict:
        moves = [[np.array(column) for column in zip(*moves, strict=True)] for moves in self.moves]
        return {
            "rng": self.rng.bit_generator.state, "finished": self.finished, "trees": self.trees.state_dict(),
            "moves": moves, "lowest": self.lowest, "may_resign": self.may_resign,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self.rng.bit_generator.state, self.finished = state["rng"], state["finished"]
        self.moves = [list(zip(*columns, strict=True)) for columns in state["moves"]]
        self.lowest, self.may_resign = np.array(state["lowest"]), np.array(state["may_resign"])
        self.trees.load(state["trees"], [[move[0] for move in moves] for moves in self.moves])


class Positions(NamedTuple):
    """history (n, T, cells) int8; colours (n,) int8; policies (n, A) float32; outcomes (n,) float32, of who is to move."""

    history: np.ndarray
    colours: np.ndarray
    policies: np.ndarray
    outcomes: np.ndarray


def positions_of(record: Record, game: Game, times: int) -> Positions:
    """z is the result for who was to move in each position."""
    _, boards = game.replay(record.actions)
    count = len(record.actions)
    padded = np.concatenate([np.zeros((times - 1, game.cells), np.int8), np.stack(boards[:count])])
    newest_first = np.arange(count)[:, None] + np.arange(times - 1, -1, -1)
    colours = (1 - 2 * (np.arange(count) % 2)).astype(np.int8)
    outcomes = (record.result * colours).astype(np.float32)
    return Positions(padded[newest_first], colours, record.policies.astype(np.float32), outcomes)


class Window:
    """The positions of the newest `games` games, each drawn with the same probability."""

    def __init__(self, game: Game, games: int, times: int):
        self.game, self.games, self.times = game, games, times
        self.lengths: list[int] = []
        self.positions = Positions(
            np.zeros((0, times, game.cells), np.int8), np.zeros(0, np.int8),
            np.zeros((0, game.actions), np.float32), np.zeros(0, np.float32),
        )  # fmt: skip

    def add(self, records: Sequence[Record]) -> None:
        new = [positions_of(record, self.game, self.times) for record in records]
        self.lengths += [len(record.actions) for record in records]
        gone = sum(self.lengths[: -self.games])
        self.lengths = self.lengths[-self.games :]
        self.positions = Positions(
            *(np.concatenate(parts)[gone:] for parts in zip(self.positions, *new, strict=True))
        )

    def sample(self, rng: np.random.Generator, count: int) -> Positions:
        chosen = rng.integers(len(self.positions.colours), size=count)
        return Positions(*(part[chosen] for part in self.positions))

    def state_dict(self) -> dict:
        return {"lengths": self.lengths, **self.positions._asdict()}

    def load_state_dict(self, state: dict) -> None:
        self.lengths = list(state["lengths"])
        self.positions = Positions(*(state[name] for name in Positions._fields))


def resignation_values(results: np.ndarray, lowest: np.ndarray, share: float, fewest: int = 20) -> np.ndarray:
    """(2,) v_resign of Black and White: of the games that each did not lose, at most this share came to a value below it.

    results (n,), Black's, and lowest (n, 2), of games without resignation; who lost all but `fewest` never resigns.
    """
    found = np.full(2, -math.inf)
    for player, result in enumerate((1, -1)):
        saved = lowest[results != -result, player]
        if len(saved) >= fewest:
            found[player] = np.quantile(saved, share, method="lower")
    return found
