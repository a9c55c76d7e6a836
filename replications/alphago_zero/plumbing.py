"""What training needs and no paper is about: the optimiser, the processes of self-play, the log, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.errors import UserError
from common.learning.layers import flatten_parameters
from common.learning.workers import Workers
from common.runs.checkpoint import Checkpoints, get_state, set_state
from common.runs.provenance import code_fingerprint
from common.say import say
from replications.alphago_zero.records import Record


def check_numbers(config: Any) -> None:
    """UserError for a count below 1, or more games side by side than a checkpoint waits for."""
    for name in ("simulations", "test_simulations", "games", "games_per_checkpoint", "games_at_once", "workers", "window",
                 "batch_size", "history"):  # fmt: skip
        if (value := getattr(config, name)) < 1:
            raise UserError(
                f"{name} {value}: at least 1 is needed; the paper has {type(config).__dict__[name]:,}"
            )
    if (count := config.games_at_once * config.workers) > config.games_per_checkpoint:
        raise UserError(
            f"games_at_once {config.games_at_once} in {config.workers} workers are {count} games, which may all end at once; "
            f"at most games_per_checkpoint, {config.games_per_checkpoint}, are allowed"
        )


class SGD:
    """Stochastic gradient descent with momentum: v <- m v + d;  w <- w - learning_rate v."""

    def __init__(self, module: nn.Module, momentum: float):
        self.weights, self.gradient = flatten_parameters(module)
        self.velocity, self.momentum = torch.zeros_like(self.weights), momentum

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        self.velocity.mul_(self.momentum).add_(self.gradient)
        self.weights.add_(self.velocity, alpha=-learning_rate)


def for_search(network: nn.Module) -> nn.Module:
    """A copy that only plays: each batch normalisation, with its running statistics, is folded into its convolution."""
    player = copy.deepcopy(network).eval()
    for module in player.modules():
        if isinstance(module, nn.Sequential) and [*map(type, module)] == [nn.Conv2d, nn.BatchNorm2d]:
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
    return player.requires_grad_(False)


class _Here:
    """One worker in this process."""

    def __init__(self, make: Callable[[int], Any]):
        self.worker = make(0)

    def play(self, until: int) -> list[Record]:
        found = []
        while self.worker.wants(until):
            found += self.worker.work()
        return found

    def state_dict(self) -> dict:
        return {"workers": [self.worker.state_dict()]}

    def load_state_dict(self, state: dict) -> None:
        self.worker.load_state_dict(state["workers"][0])


class _Processes:
    def __init__(self, workers: Workers):
        self.workers, self.state_dict, self.load_state_dict = (
            workers,
            workers.state_dict,
            workers.load_state_dict,
        )

    def play(self, until: int) -> list[Record]:
        found: list[Record] = []
        self.workers.run(until, math.inf, lambda: False, hear=found.append)
        return sorted(found, key=lambda record: record.worker)  # whichever process was faster


@contextmanager
def playing(count: int, make: Callable[[int], Any]) -> Iterator[_Here | _Processes]:
    """`count` workers; their `play(until)` returns the games that ended until each has played that many in all."""
    if count == 1:
        yield _Here(make)
        return
    with Workers(count, make) as workers:
        yield _Processes(workers)


class Log:
    """What is drawn and measured later: a row for each checkpoint, players kept on the way, the newest games.

    rows: name -> one number a checkpoint. kept: checkpoint -> the best player's weights then, at 0 and then four times as far each time.
    """

    PLAYED_OUT, GAMES = 200, 8  # games without resignation, of which v_resign is made; games shown

    def __init__(self, checkpoints: int):
        self.wanted = {0} | {round(checkpoints / 4**k) for k in range(4)}
        self.rows: dict[str, list[float]] = {}
        self.kept: dict[str, dict[str, Any]] = {}
        self.without: list[list[float]] = []  # result, Black's and White's lowest value
        self.games: list[dict[str, Any]] = []

    def keep(self, number: int, network: nn.Module) -> None:
        if number in self.wanted and str(number) not in self.kept:
            self.kept[str(number)] = {name: value.clone() for name, value in network.state_dict().items()}

    def add_games(self, records: Sequence[Record]) -> None:
        self.without += [[r.result, *map(float, r.lowest)] for r in records if not r.could_resign]
        self.without = self.without[-self.PLAYED_OUT :]
        shown = (
            {"actions": r.actions.tolist(), "values": r.values.tolist(), "result": int(r.result)}
            for r in records
        )
        self.games = [*self.games, *shown][-self.GAMES :]

    def played_out(self) -> tuple[np.ndarray, np.ndarray]:
        table = np.array(self.without, float).reshape(-1, 3)
        return table[:, 0], table[:, 1:]

    def add(
        self, games: int, records: Sequence[Record], losses: Sequence[float], gate: np.ndarray | None, empty: float
    ) -> None:  # fmt: skip
        results, first = np.array([r.result for r in records]), np.array([r.actions[0] for r in records])
        center = (records[0].policies.shape[1] - 1) // 2  # with and without a pass
        row = {
            "games": games, "loss": np.mean(losses), "black_share": np.mean(results + 1) / 2, "draws": np.mean(results == 0),
            "moves": np.mean([len(r.actions) for r in records]), "resigned": np.mean([r.resigned for r in records]),
            "first_move_center": np.mean(first == center), "empty_board": empty,
            "gate": -1.0 if gate is None else (gate + 1).mean() / 2,
        }  # fmt: skip
        for name, value in row.items():
            self.rows.setdefault(name, []).append(float(value))
        say(
            f"{games:,} games of self-play: Black's share {row['black_share']:.2f}, {row['moves']:.0f} moves, loss {row['loss']:.2f}"
        )

    def state_dict(self) -> dict:
        return {"rows": self.rows, "kept": self.kept, "without": self.without, "games": self.games}

    def load_state_dict(self, state: dict) -> None:
        self.rows, self.without, self.games = state["rows"], state["without"], state["games"]
        self.kept = {
            number: {name: torch.as_tensor(value) for name, value in weights.items()}
            for number, weights in state["kept"].items()
        }


CHECKPOINT_SECONDS = 60.0


def resumable(kept: Path | None, count: int, parts: dict[str, Any]) -> Iterator[int]:
    """1 to `count`, going on behind the newest checkpoint in `kept`, which all `parts` are loaded from.

    What is done for a number is saved when the next is asked for, CHECKPOINT_SECONDS after the last or later, and at the end.
    """
    if kept is None:
        yield from range(1, count + 1)
        return
    checkpoints = Checkpoints(kept, code_fingerprint("alphago_zero")[:12])
    begun, last = 0, time.monotonic()
    if (found := checkpoints.load()) is not None:
        state, _ = found
        begun = state["number"]
        for name, part in parts.items():
            set_state(part, state[name])
        say(f"going on behind checkpoint {begun} of {count}")
    for number in range(begun + 1, count + 1):
        yield number
        if number == count or time.monotonic() - last >= CHECKPOINT_SECONDS:
            checkpoints.save(
                number, {"number": number, **{name: get_state(part) for name, part in parts.items()}}, {}
            )
            last = time.monotonic()
    checkpoints.wait()
