"""A run in words and numbers: what it will do and need, and how run.json names it."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import papers
from common.errors import UserError
from common.runs.provenance import machine, memory_gb

CHECKPOINT_GB = 0.1  # of disk, one checkpoint of a million transitions and a Nature network; measured: 0.06
MEMORY_GB = 1.2  # beside the frames: Python, PyTorch, network, optimiser


def plan(run: Any, replay: Any) -> str:
    """What the run will do and need, printed before it starts. replay: one whose frames are on disk, or None."""
    steps, folder = run.settings["training_steps"], run.folder.path
    frames = f" ({steps * run.frames_per_step:,} frames)" if run.frames_per_step > 1 else ""
    text = (
        f"{run.paper.name} {run.task.name} seed {run.seed}, size {run.size}: {steps:,} agent steps{frames} "
        f"on {machine(run.provenance)}; results in {folder}"
    )
    if replay is None:
        return text
    ring, checkpoints = replay.frames.nbytes / 1e9, 2 * CHECKPOINT_GB
    free = shutil.disk_usage(run.folder.work).free / 1e9  # the ring's space is reserved already
    text += (
        f"\nneeds {ring + checkpoints:.1f} GB of disk while it runs ({free:.0f} GB are free beyond the {ring:.1f} GB "
        f"reserved) and up to {ring + MEMORY_GB:.1f} GB of memory (this machine has {memory_gb():.0f} GB)"
    )
    if free < checkpoints:
        raise UserError(
            f"{run.folder.work} has {free:.2f} GB free, checkpoints need {checkpoints:.1f} GB; free some space or "
            "choose another --results folder"
        )
    if ring + MEMORY_GB > memory_gb():
        text += "\nwarning: the frames do not fit into memory and will be read from disk; that is slow"
    return text


def describe(run: Any) -> dict[str, Any]:
    """Which run it is, as run.json says it."""
    return {
        "paper": run.paper.name, "variant": run.variant, "task": run.task.name, "budget": run.size,
        "seed": run.seed, "settings": run.settings, "settings_key": run.settings_key, "overrides": run.asked,
    }  # fmt: skip


def peak_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))


def given_settings(run: Mapping[str, Any], root: Path = papers.REPLICATIONS) -> dict[str, Any]:
    """The settings that a user gave a run (its run.json); of one that does not say, those that its size does not have now."""
    if "overrides" in run:
        return dict(run["overrides"])
    plain = papers.resolve(*(run[key] for key in ("paper", "variant", "task", "budget")), root=root)
    fitted = papers.fitted_to_machine(plain.paper, plain.task)
    was = run["settings"].items()
    return {k: v for k, v in was if k not in fitted and plain.settings.get(k) != v}
