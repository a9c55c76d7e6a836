"""What a run costs before it starts: hours, memory, cores, disk, from the table costs.yaml and from runs that are finished.

Nothing here imports torch: a dry run would wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from common.papers import Resolved, budget_of

TABLE = Path(__file__).with_name("costs.yaml")
THREADS = 4  # of a training on screens that has no workers; more gain little
RING_MB = 7.0656e-3  # a slot of a replay memory of screens (84x84 bytes and its index); measured: benchmarks/results.json
CHECKPOINTS_MB = 200  # of disk, while a run goes on (common/runs/description.py)
EPISODE = 4500  # agent steps of a game of five minutes, where no shorter cap is stated
SMOKE_SECONDS = 60  # of a task with claims


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds of the training and of the final evaluation, memory, disk that it leaves and takes meanwhile.

    threads: cores that it holds. None of it has a margin. measured: False where the rate is an estimate.
    """

    seconds: float
    evaluation_seconds: float
    memory_mb: float
    threads: int
    kept_mb: float
    meanwhile_mb: float
    measured: bool


@dataclass(frozen=True)
class Costs:
    """Seconds per agent step: before learning, while learning, and in an evaluation phase."""

    waiting: float
    learning: float
    evaluating: float


def total_seconds(costs: Costs, settings: Mapping[str, Any]) -> float:
    """Training with its evaluation phases, the final evaluation left out."""
    steps, start = settings["training_steps"], settings.get("replay_start", 0)
    phases = steps // settings["evaluation_period"] if costs.evaluating else 0
    evaluated = phases * settings["evaluation_steps"] if phases else 0
    return (
        min(start, steps) * costs.waiting
        + max(steps - start, 0) * costs.learning
        + evaluated * costs.evaluating
    )


@cache
def table() -> dict[str, Any]:
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def margin() -> float:
    return table()["margin"]


def _row(paper: str, variant: str | None, task: str, kind: str) -> dict[str, Any]:
    """The nearest: a variant's rows are of its games, since on CartPole its network is another."""
    rows = table().get(paper, {})
    names = (variant if kind == "atari" else None, task, kind)
    return next((rows[name] for name in names if name in rows), table()["any"][kind])


def row_of(resolved: Resolved) -> dict[str, Any]:
    """The table's row for a run."""
    return _row(resolved.paper.name, resolved.variant.name, resolved.task.name, resolved.task.kind)


def threads_of(resolved: Resolved) -> int:
    """Cores that a run gains from: one a worker; a few with screens; one for small networks and tables."""
    workers = resolved.settings.get("workers")
    if workers is not None:
        return max(int(number) for number in str(workers).split(","))
    return THREADS if resolved.task.kind == "atari" else 1


def cost_of(resolved: Resolved, cores: int | None = None, faster: float = 1.0) -> Cost:
    """cores: of the machine, None for no limit. faster: how many times the table's rate it has (`speed_of`)."""
    row, settings = row_of(resolved), resolved.settings
    threads = min(threads_of(resolved), cores or 10**6)
    processes = threads if settings.get("workers") is not None else 0
    memory = row["memory_mb"] + processes * table()["worker_mb"]
    kept, measured = row["kept_mb"], row["of"] != "estimate"
    if "seconds" in row:
        seconds = SMOKE_SECONDS if budget_of(resolved.budget) == "smoke" else row["seconds"]
        return Cost(seconds / faster, 0, memory, threads, kept, 0, measured)
    per_step = 1 / (row["rate"] * max(processes, 1) * faster)
    playing = 1 / (row["evaluating"] * faster)
    phases = playing if settings.get("evaluation_period") and settings.get("evaluation_steps") else 0
    ring = 0.0
    if resolved.task.kind == "atari" and settings.get("replay_capacity"):
        slack = 1.1 if settings.get("num_envs", 1) == 1 else 1.5  # Run.frame_storage
        ring = settings["replay_capacity"] * slack * RING_MB
    return Cost(
        total_seconds(Costs(per_step, per_step, phases), settings),
        _final_episodes(resolved) * playing,
        memory + min(ring, settings["training_steps"] * RING_MB),
        threads,
        kept,
        ring + (CHECKPOINTS_MB if ring else 0),
        measured,
    )


def _final_episodes(resolved: Resolved) -> float:
    """Agent steps of the final evaluation, if every game is as long as it may be; games without a cap end in ten minutes."""
    protocol = resolved.protocol
    cap = (
        protocol.max_frames or 2 * EPISODE * resolved.frames_per_agent_step
    ) / resolved.frames_per_agent_step
    return (protocol.episodes + protocol.extra_episodes) * min(cap, 2 * EPISODE)


def speeds_in(results: Path | str) -> dict[tuple[str, str, str], float]:
    """(paper, kind, device) -> how many times the table's rate the finished runs in a folder of results had, the median.

    Runs of a device that the table has no rates of, a GPU, are what its hours come from.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for path in Path(results).glob("*/*/*/seed*/run.json"):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            rate, device = run["cost"]["steps_per_second"], run["provenance"]["device"]
            kind = "atari" if run["frames_per_agent_step"] > 1 else "gym"
            expected = _row(run["paper"], run["variant"], run["task"], kind)["rate"]
            if (workers := run["settings"].get("workers")) is not None:
                expected *= min(int(workers), run["provenance"]["hardware"]["cores"])
            steps = run["progress"]["agent_steps"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged, or of a task with claims: seconds are no rate
        if steps >= 10_000:  # a smoke run tells of its start
            found.setdefault((run["paper"], kind, device), []).append(rate / expected)
    return {key: median(values) for key, values in found.items()}


def speed_of(resolved: Resolved, device: str, speeds: Mapping[tuple[str, str, str], float]) -> float | None:
    """Of this paper's runs on such tasks; else of all runs on this device; None where none is finished.

    Only of what is trained: a task with claims takes the seconds that the table says.
    """
    kind = resolved.task.kind
    own = speeds.get((resolved.paper.name, kind, device))
    others = [speed for (_, of, on), speed in speeds.items() if (of, on) == (kind, device)]
    return own if own is not None else median(others) if others else None
