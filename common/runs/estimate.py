"""How long a run will take on this machine: a few hundred steps of the real script, timed before it starts."""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import papers
from common.runs.costs import Costs
from common.runs.progress import Progress
from common.runs.run import STOPPED, Run
from common.say import say

# A short run that reaches learning and one evaluation phase; names that a script's Config does not have are left out.
PROBE = {
    "training_steps": 700, "replay_capacity": 2000, "replay_start": 200, "final_exploration_step": 1, "target_period": 10_000,
    "evaluation_period": 700, "evaluation_steps": 200, "held_out_states": 20,
}  # fmt: skip


class Probe(Run):
    """A run in a temporary folder that notes when each tick came, and leaves nothing."""

    seconds_between_ticks = 0.1

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.ticks: list[tuple[int, float]] = []  # agent steps, moment
        self.evaluation = 0.0  # seconds of the last evaluation phase

    def _start_tracker(self) -> None:
        self.tracker = None

    def _announce(self, replay: Any) -> None:
        say("timing a few hundred steps on this machine ...")

    def tick(self, progress: Progress) -> None:
        if self._stop is not None:
            raise SystemExit(STOPPED)
        self.ticks.append((progress.agent_steps, time.perf_counter()))

    def evaluate(self, policy, progress):
        began = time.perf_counter()
        scores = super().evaluate(policy, progress)
        self.evaluation = time.perf_counter() - began
        return scores

    def log_phase(self, *_: Any, **__: Any) -> None:
        pass

    def finish(self, *_: Any, **__: Any) -> None:
        pass


def measure(resolved: papers.Resolved, seed: int, device: str, threads: int) -> Costs:
    """Runs the script for a few seconds. Uses the global random generators: seed them again afterwards."""
    script = importlib.import_module(f"replications.{resolved.paper.name}.train")
    names = {field.name for field in dataclasses.fields(script.Config)}
    settings = resolved.settings | {k: v for k, v in PROBE.items() if k in names}
    if "rollout_steps" in names:  # no waiting for a replay memory: a few rollouts tell
        rollout = settings["rollout_steps"] * settings.get("num_envs", 1)
        settings["training_steps"] = rollout * max(3, -(-PROBE["training_steps"] // rollout))
    short = dataclasses.replace(resolved, settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        run = Probe(short, seed, device=device, threads=threads, results=Path(folder))
        began = time.perf_counter()
        try:
            run.open()
            script.train(script.Config(**settings), run)
        finally:
            run.close()

    def per_step(first: int, last: int) -> float:
        """The median over pieces of 40 steps: what else the machine does for a moment does not count."""
        times = {step: moment for step, moment in run.ticks if first <= step <= last}
        steps = sorted(times)
        if len(steps) < 2:  # over before a second look
            return (time.perf_counter() - began) / max(run.ticks[-1][0], 1)
        width = max(40 // max(steps[1] - steps[0], 1), 1)
        pieces = [
            (times[b] - times[a]) / (b - a) for a, b in zip(steps[::width], steps[width::width], strict=False)
        ]
        return median(pieces)

    if "replay_start" not in names:
        learning = per_step(run.ticks[min(1, len(run.ticks) - 1)][0], run.ticks[-1][0])
        return Costs(learning, learning, run.evaluation / settings.get("evaluation_steps", 1))
    return Costs(per_step(40, 200), per_step(240, 690), run.evaluation / settings["evaluation_steps"])
