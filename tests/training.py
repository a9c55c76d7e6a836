"""Tiny trainings of the real scripts, in this process or in one that can be killed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common import papers
from common.learning.layers import ByteConv2d, WideLinear
from common.runs import command_line
from common.runs.run import Run

ROOT = Path(__file__).resolve().parent.parent

# Breakout: five lives and a game over within a few hundred steps; a ring that wraps, two target copies, two evaluation phases.
# The batch is small because convolutions are nearly all that such a run costs.
TINY = {
    "training_steps": 600, "replay_capacity": 150, "replay_start": 100, "final_exploration_step": 300, "target_period": 200,
    "evaluation_period": 300, "evaluation_steps": 250, "held_out_states": 20, "batch_size": 8,
}  # fmt: skip


def open_run(
    paper: str,
    task: str,
    results: Path,
    overrides: dict,
    seed: int = 1,
    variant: str | None = None,
    **options,
):
    """A `Run` that has taken its folder, and the script's module and config."""
    resolved = papers.resolve(paper, variant, task, options.pop("budget", "smoke"), overrides)
    script = importlib.import_module(f"replications.{paper}.train")
    fresh, changed = options.pop("fresh", False), options.pop("resume_changed", False)
    threads = command_line.prepare(seed, 1)
    run = Run(resolved, seed, device="cpu", threads=threads, results=results, **options)
    finished = run.open(fresh, changed)
    return run, script, script.Config(**resolved.settings), finished


def train(paper: str, task: str, results: Path, overrides: dict | None = None, **options) -> Path:
    """Trains to the end in this process; returns the run's folder."""
    run, script, config, finished = open_run(
        paper, task, results, overrides if overrides is not None else TINY, **options
    )
    try:
        if not finished:
            script.train(config, run)
    finally:
        run.close()
    return run.folder.path


def command(paper: str, task: str, results: Path, overrides: dict | None = None, *more: str) -> list[str]:
    """The command line of what `train` does in this process. Its folder, which names the settings, leads to `train`'s."""
    flags = [
        f"--{k.replace('_', '-')}={v}" for k, v in (overrides if overrides is not None else TINY).items()
    ]
    which = ["--task", task, "--budget", "smoke", *flags, *more]
    script = importlib.import_module(f"replications.{paper}.train")
    _, resolved = command_line.parse(paper, script.Config, which)
    agent = "-".join(filter(None, [paper, resolved.variant.name]))
    plain, named = (results / agent / task / size for size in ("smoke", resolved.budget))
    plain.mkdir(parents=True, exist_ok=True)
    if not named.exists():
        named.symlink_to(plain.name)
    return [sys.executable, "-m", script.__name__, *which, "--threads", "1", "--results", str(results)]


def environment() -> dict[str, str]:
    return os.environ | {"WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    with open(log, "ab") as file:
        return subprocess.Popen(arguments, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment())


def wait_for(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@contextmanager
def crashing(steps: int, save: bool = True):
    """The run that trains in this block leaves its loop by an exception, as a crash does, at agent step `steps`.

    save: right after a checkpoint; otherwise only the checkpoints that were due by then are there.
    """

    class Crash(Exception):
        pass

    real = Run.tick

    def tick(self, progress):
        real(self, progress)
        if progress.agent_steps >= steps:
            if save:
                self.save()
            self.checkpoints.wait()
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "tick", tick)
        with pytest.raises(Crash):
            yield


def train_in_two(steps: int, paper: str, task: str, results: Path, overrides: dict, **options) -> Path:
    """Trains, saves and crashes at agent step `steps`, and resumes with the same command; returns the run's folder."""
    with crashing(steps):
        train(paper, task, results, overrides, **options)
    return train(paper, task, results, overrides, **options)


def spaces(num_actions: int, obs_shape: tuple[int, ...], continuous: bool = False) -> SimpleNamespace:
    """What a script's `make_network` looks at of the environments."""
    bounds = np.full(num_actions, -1, np.float32), np.full(num_actions, 1, np.float32)
    return SimpleNamespace(
        num_actions=num_actions, obs_shape=obs_shape, action_shape=(num_actions,) if continuous else (),
        action_bounds=bounds if continuous else None,
    )  # fmt: skip


def on_numbers(layers: torch.nn.Sequential) -> torch.nn.Sequential:
    """The same weights in PyTorch's own layers, none of this repository's: for pixels that have been divided by 255 already."""
    plain = []
    for layer in layers:
        if isinstance(layer, ByteConv2d):
            own = torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
        elif isinstance(layer, WideLinear):
            own = torch.nn.Linear(layer.in_features, layer.out_features)
        else:
            plain.append(layer)
            continue
        own.weight, own.bias = layer.weight, layer.bias
        plain.append(own)
    return torch.nn.Sequential(*plain)
