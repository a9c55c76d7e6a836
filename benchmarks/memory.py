"""A full replay memory beside a network: sampling time, bytes, resident memory, checkpoints. Runs in a process of its own."""

from __future__ import annotations

import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from benchmarks.learning import open_run
from benchmarks.machine import peak_resident_gb, resident_gb
from benchmarks.process import serve
from common.environments.make import make_envs
from common.learning.replay import Replay
from common.runs.progress import Progress

EPISODE = 1000  # agent steps of a synthetic episode
MARKS = 10  # times that resident memory is noted while the ring fills


def worker(connection: Connection, options: dict[str, Any]) -> None:
    """Everything that `train` keeps in memory, registered with a run as `train` does, fed with synthetic frames.

    options: paper, folder, threads, capacity (transitions). Commands: "fill", "bytes", "sample", "soak", "checkpoint", "peak".
    """
    subject = Subject(options)
    commands = ("fill", "bytes", "sample", "soak", "checkpoint", "peak")
    try:
        serve(connection, {name: getattr(subject, name) for name in commands})
    finally:
        subject.run.close()


class Subject:
    def __init__(self, options: dict[str, Any]):
        run, script, c = open_run(
            options["paper"], options["folder"], options["threads"], {"replay_capacity": options["capacity"]}
        )
        self.run, self.script, self.config = run, script, c
        self.rng = np.random.default_rng(1)
        envs = make_envs(c, run.task, 1, run.seed)
        self.actions = envs.num_actions
        self.replay = Replay(
            c.replay_capacity,
            envs.obs_shape,
            envs.obs_dtype,
            stack=c.stack,
            **run.frame_storage(envs, c.replay_capacity),
        )
        self.q, self.target, self.best = (script.make_network(c, envs) for _ in range(3))
        self.optimiser = script.RMSProp(self.q, c)
        self.progress = Progress()
        run.resume(
            self.progress,
            rng=self.rng,
            envs=envs,
            replay=self.replay,
            q=self.q,
            target=self.target,
            best=self.best,
            optimiser=self.optimiser,
            held_out=torch.zeros(
                (c.held_out_states, *self.replay.state_shape), dtype=self.replay.torch_dtype
            ),
            loss_sum=torch.zeros(()),
        )
        envs.reset()
        self.pool = self.rng.integers(256, size=(256, 1, *envs.obs_shape), dtype=np.uint8)
        self.replay.begin_episodes(self.pool[0])

    def add(self, count: int) -> None:
        """So many agent steps, with an end of an episode now and then."""
        actions = self.rng.integers(self.actions, size=(count, 1))
        rewards, going, over = np.zeros(1), np.zeros(1, bool), np.ones(1, bool)
        for k in range(count):
            self.progress.agent_steps += 1
            obs, last = self.pool[self.progress.agent_steps % 256], self.progress.agent_steps % EPISODE == 0
            self.replay.add(actions[k], rewards, over if last else going, obs)
            if last:
                self.replay.begin_episodes(obs)

    def fill(self) -> dict[str, Any]:
        """Writes every slot of the ring once. Resident memory in GB before, after, and with so many slots written."""
        empty, curve = resident_gb(), []
        for mark in range(1, MARKS + 1):
            goal = self.replay.slots * mark // MARKS
            while self.replay.written[0] < goal:
                self.add(min(1000, int(goal - self.replay.written[0])))
            curve.append((goal, resident_gb()))
        self.replay.flush()  # or the kernel writes gigabytes in the background while other things are timed
        self.soak(20)
        return {"empty": empty, "full": resident_gb(), "curve": curve}

    def bytes(self) -> dict[str, float]:
        """GB per million transitions: frames on disk, of which slack, and the arrays beside them."""
        replay, million = self.replay, 1e6 / self.config.replay_capacity / 1e9
        file = (self.run.folder.work / "frames.bin").stat().st_size
        arrays = (replay.actions, replay.rewards, replay.terminals, replay.complete, replay.age)
        slack = (replay.slots - replay.window) * replay.frames[0, 0].nbytes
        return {
            "disk": file * million,
            "slack": slack * million,
            "index": sum(a.nbytes for a in arrays) * million,
        }

    def sample(self, count: int) -> float:
        """Milliseconds for one batch, the median of so many."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            self.replay.sample(self.rng, self.config.batch_size)
            times.append(time.perf_counter() - began)
        return 1000 * statistics.median(times)

    def soak(self, updates: int) -> float:
        """So many updates, each after the paper's number of agent steps; returns resident memory in GB."""
        for _ in range(updates):
            self.add(self.config.update_period)
            batch = self.replay.sample(self.rng, self.config.batch_size)
            self.script.update(self.q, self.target, self.optimiser, batch, self.config)
            self.progress.updates += 1
        return resident_gb()

    def checkpoint(self, steps: int) -> dict[str, float]:
        """A checkpoint after so many new agent steps: seconds that `run.save` blocks, and until all is on the disk."""
        self.run.checkpoints.wait()
        self.add(steps)
        began = time.perf_counter()
        self.run.save()
        stall = time.perf_counter() - began
        self.run.checkpoints.wait()
        return {"stall": stall, "write": time.perf_counter() - began}

    def peak(self) -> float:
        """GB."""
        return peak_resident_gb()
