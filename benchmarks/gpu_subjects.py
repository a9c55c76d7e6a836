"""What `python -m benchmarks.gpu` measures beside the trainings of `learning.py`. Each `*_worker` runs in a process of its own."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.learning import TASK
from benchmarks.process import Finished, serve
from benchmarks.ring import fill
from common import papers
from common.learning.cuda_graphs import CudaGraphed
from common.learning.replay import Replay
from common.runs.command_line import prepare
from common.runs.run import Run

WAITS = "called a synchronizing CUDA operation"  # how PyTorch's sync debug mode begins its warning
PONG_SCORE = 18.0
PONG = {"training_steps": 4_000_000, "evaluation_period": 25_600, "evaluation_steps": 10_000}  # agent steps


def waits(function: Callable[[], None]) -> int:
    """How often the host waits for the GPU in `function()`, as PyTorch's sync debug mode counts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(WAITS in str(warning.message) for warning in caught)


SPACES = SimpleNamespace(num_actions=6, obs_shape=(84, 84), action_shape=())


class Updates:
    """DQN's update at the paper's settings: from places in the replay memory to new weights, launched singly or as one graph."""

    def __init__(self, device: str, capacity: int, paper: str = "dqn"):
        self.script = importlib.import_module(f"replications.{paper}.train")
        self.config, self.rng = self.script.Config(), np.random.default_rng(1)
        self.cuda = device == "cuda"
        c = self.config
        self.replay = Replay(capacity, (84, 84), stack=c.stack, device=device)
        fill(self.replay)
        if self.replay.on_device is not None:
            self.replay.on_device.load()
        self.loss_sum = torch.zeros((), device=device)
        self.steps = {
            kind: self._step(on) for kind, on in (("eager", False), ("graph", True)) if self.cuda or not on
        }

    def _step(self, graph: bool) -> CudaGraphed:
        q, target = (self.script.make_network(self.config, SPACES).to(self.replay.device) for _ in range(2))
        optimiser = self.script.RMSProp(q, self.config)
        return CudaGraphed(
            lambda flat_indices: self.script.update(
                q, target, optimiser, self.replay.gather(flat_indices), self.config
            ),
            on=graph,
        )

    def synchronise(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def train(self, kind: str, count: int) -> None:
        """So many updates as `train` makes them, drawing included."""
        for _ in range(count):
            indices = self.replay.draw(self.rng, self.config.batch_size)
            self.loss_sum.add_(self.steps[kind](self.replay.flat_indices(indices)))

    def seconds(self, kind: str, count: int) -> float:
        """One of `count` updates whose places were drawn and sent beforehand; the GPU has finished at both ends."""
        draws = [self.replay.draw(self.rng, self.config.batch_size) for _ in range(count)]
        places = [self.replay.flat_indices(indices) for indices in draws]
        self.synchronise()
        began = time.perf_counter()
        for there in places:
            self.loss_sum.add_(self.steps[kind](there))
        self.synchronise()
        return (time.perf_counter() - began) / count

    def host_waits(self, count: int) -> float:
        """Waits per graph update. Raises RuntimeError if a wait that is made on purpose is not counted."""
        if waits(lambda: self.loss_sum.item()) < 1:
            raise RuntimeError("PyTorch's sync debug mode does not count a wait that is made on purpose")
        self.train("graph", CudaGraphed.WARM_UP + 1)
        return waits(lambda: self.train("graph", count)) / count


def update_worker(connection: Connection, options: dict[str, Any]) -> None:
    """Answers ("seconds", "eager" or "graph", n) and ("host_waits", n). options: threads, device, capacity, warm_up (updates)."""
    prepare(1, options["threads"])
    updates = Updates(options["device"], options["capacity"])
    for kind in updates.steps:
        updates.train(kind, options["warm_up"])
    serve(connection, {"seconds": updates.seconds, "host_waits": updates.host_waits})


class RunToScore(Run):
    """A run that ends with the first evaluation phase whose mean is at `score`, and knows how long it trained until then."""

    score = PONG_SCORE

    def _start_tracker(self) -> None:
        self.tracker = None

    def evaluate(self, policy: Any, at: Any) -> np.ndarray:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        before = self._seconds()  # since the loop began; phases included
        training = before - self._evaluation_seconds
        scores = super().evaluate(policy, at)
        print(f"agent step {at.agent_steps}: {scores.tolist()}, {training:.1f} s of training", flush=True)
        if len(scores) and scores.mean() >= self.score:
            self.found = {"training": training, "whole": self._seconds(), "agent_steps": at.agent_steps}
            raise Finished
        return scores


def to_score(
    device: str, threads: int, folder: Path, overrides: dict[str, Any], score: float = PONG_SCORE
) -> dict[str, float] | None:
    """Seconds until DQN's variant fast has a phase of mean `score` on Pong, without and with the phases; None if it never has.

    The hour budget's schedules; greedy games (epsilon 0.05) of a frozen network. Graph capture and warm-up are included.
    """
    resolved = papers.resolve("dqn", "fast", TASK, "hour", overrides)
    script = importlib.import_module("replications.dqn.train")
    run = RunToScore(resolved, 1, device=device, threads=prepare(1, threads), results=folder)
    run.score = score
    run.open()
    try:
        script.train(script.Config(**resolved.settings), run)
    except Finished:
        return run.found
    finally:
        run.close()
    return None


def pong_worker(connection: Connection, options: dict[str, Any]) -> None:
    """Answers ("run",) with what `to_score` finds. options: threads, device, folder, overrides."""

    def go() -> dict[str, float] | None:
        return to_score(options["device"], options["threads"], options["folder"], options["overrides"])

    serve(connection, {"run": go})
