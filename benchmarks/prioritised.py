"""Batches drawn by priority beside uniform ones, at a million leaves. Runs in a process of its own.

Two rings, so that the full one takes no gigabytes: a million slots of tiny frames, over which both draws go and which has the
priorities; and a smaller one of real frames, larger than any cache, from which both gather, at the drawn slot modulo its size.
"""

from __future__ import annotations

import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.process import serve
from benchmarks.ring import fill
from common.learning.priorities import Priorities
from common.learning.replay import Replay
from common.runs.command_line import prepare

LEAVES, FRAMES, BATCH = 1_000_000, 50_000, 32
EXPONENT = 0.6  # Schaul et al. 2016, Table 3, proportional


class Subject:
    """leaves, frames: slots of the two rings."""

    def __init__(self, leaves: int = LEAVES, frames: int = FRAMES):
        self.rng = np.random.default_rng(1)
        self.leaves, self.frames = Replay(leaves, (1,)), Replay(frames, (84, 84))
        for replay in (self.leaves, self.frames):
            fill(replay)
        self.priorities = Priorities(self.leaves, "proportional", exponent=EXPONENT)
        len(self.priorities)  # lets all in
        slots = np.arange(leaves)
        slots = slots[self.leaves.may_sample(np.zeros(leaves, np.int64), slots)]
        for part in np.array_split(slots, 20):
            self.priorities.update(np.stack([np.zeros_like(part), part], axis=1), self.rng.random(len(part)))

    def gather(self, indices: np.ndarray) -> None:
        self.frames.gather(np.stack([indices[:, 0], indices[:, 1] % self.frames.slots], axis=1))

    def uniform(self) -> None:
        self.gather(self.leaves.draw(self.rng, BATCH))

    def prioritised(self) -> None:
        indices, _ = self.priorities.draw(self.rng, BATCH)
        self.gather(indices)
        self.priorities.update(indices, self.rng.random(BATCH))

    def sample(self, count: int) -> dict[str, float]:
        """Milliseconds for one batch, medians over `count` of each, in turn."""
        times: dict[str, list[float]] = {"uniform": [], "priorities": []}
        for _ in range(count):
            for name, call in (("uniform", self.uniform), ("priorities", self.prioritised)):
                began = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - began)
        return {name: 1000 * statistics.median(values) for name, values in times.items()}


def worker(connection: Connection, options: dict[str, Any]) -> None:
    """Answers ("sample", n). options: threads."""
    prepare(1, options["threads"])
    subject = Subject()
    subject.sample(20)
    serve(connection, {"sample": subject.sample})
