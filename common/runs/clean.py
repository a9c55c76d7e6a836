"""Removes what runs leave behind and no longer need, and says how much.

    ./run python -m common.runs.clean [--dry-run] [--all]

What goes: checkpoints of finished runs, checkpoints that were put aside, files half-written by a killed run, wandb's
copies, and Snakemake's logs. With --all the results go too. Never touched: a run in progress, recorded runs, anything
outside the results folder. A finished run whose checkpoint is gone keeps its results; forcing its training again starts
from nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError, run_main
from common.say import say

AGENT = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+)?")
NAME = re.compile(r"[a-z0-9_]+|frames-[0-9]+")
SEED = re.compile(r"seed[0-9]+")
FINISHED = ("run.json", "curve.csv", "episodes.csv", "timing.csv", "model.safetensors", "evaluation.json")
CLAIMS = ("run.json", "measures.json", "points.csv")  # a finished task with claims
CHECKPOINTS, ASIDE, HALF, WANDB, LOGS, RESULTS = (
    "checkpoints of finished runs",
    "checkpoints put aside",
    "half-written files",
    "wandb's copies",
    "Snakemake's logs",
    "results",
)


@dataclass
class Report:
    """What was removed (or would be), by kind: how many things and bytes; and the runs left alone, with the reason."""

    count: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    size: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    kept: list[str] = field(default_factory=list)

    def text(self, dry_run: bool) -> str:
        lines = [f"{kind:30} {self.count[kind]:6}  {_size(self.size[kind]):>9}" for kind in self.count]
        total = f"{'would remove' if dry_run else 'removed'} {_size(sum(self.size.values()))}"
        return "\n".join([*lines, *self.kept, total])


def clean(
    results: Path = Path("results"),
    *,
    everything: bool = False,
    dry_run: bool = False,
    workflow: Path | None = None,
) -> Report:
    """Cleans a results folder and, where given, the folder Snakemake works in. `everything`: the results too."""
    results = Path(results)
    if "recorded" in results.resolve().parts:
        raise UserError(
            f"--results {results} is inside a recorded/ folder, whose runs are never removed; "
            "name the folder of your own runs"
        )
    if results.exists() and not results.is_dir():
        raise UserError(f"--results {results} is not a folder")
    report = Report()
    for run in list(_runs(results)):
        with _hold(run) as mine:
            if not mine:
                report.kept.append(f"in progress, left alone: {run}")
                continue
            if everything:
                _remove(run, RESULTS, report, dry_run)
            else:
                _clean_run(run, report, dry_run)
        if everything and not dry_run:
            for folder in list(run.parents)[:3]:  # size, task, agent: where nothing is left in them
                with contextlib.suppress(OSError):
                    folder.rmdir()
    if workflow is not None:
        _clean_workflow(Path(workflow), report, dry_run)
    return report


def _clean_run(run: Path, report: Report, dry_run: bool) -> None:
    work = run / "checkpoint"
    finished = any(all((run / name).is_file() for name in names) for names in (FINISHED, CLAIMS))
    if not _real_folder(work):
        if work.is_symlink():
            report.kept.append(f"a link, left alone: {work}")
    elif finished:
        for thing in _inside(work):
            if thing.name == "live":  # a training that waits for the lock expects the folder
                for log in _inside(thing):
                    _remove(log, CHECKPOINTS, report, dry_run)
            elif thing.name != ".lock":
                _remove(thing, ASIDE if thing.name.startswith("stale-") else CHECKPOINTS, report, dry_run)
    else:
        for thing in _inside(work):
            if thing.name.startswith("stale-"):
                _remove(thing, ASIDE, report, dry_run)
            elif thing.name.startswith(".") and thing.name.endswith(".tmp"):
                _remove(thing, HALF, report, dry_run)
    for thing in _inside(run):
        if thing.name == "wandb" and _real_folder(thing):
            _remove(thing, WANDB, report, dry_run)
        elif thing.name.startswith(".") and thing.name.endswith(".tmp") and thing.is_file():
            _remove(thing, HALF, report, dry_run)


def _clean_workflow(root: Path, report: Report, dry_run: bool) -> None:
    state = root / ".snakemake"
    if _real_folder(state / "locks") and _inside(state / "locks"):
        report.kept.append(
            "Snakemake's logs, left alone: a workflow is running (or was killed: snakemake --unlock)"
        )
        return
    for folder in (state / "log", root / "logs"):
        if _real_folder(folder):
            for thing in _inside(folder):
                _remove(thing, LOGS, report, dry_run)


def _runs(results: Path) -> Iterator[Path]:
    """results/<agent>/<task>/<size>/seed<N>, real folders only."""

    def below(folder: Path, name: re.Pattern) -> list[Path]:
        return [
            p for p in _inside(folder) if name.fullmatch(p.name) and p.name != "recorded" and _real_folder(p)
        ]

    if results.is_dir():
        for agent in below(results, AGENT):
            for task in below(agent, NAME):
                for size in below(task, NAME):
                    yield from below(size, SEED)


@contextlib.contextmanager
def _hold(run: Path) -> Iterator[bool]:
    """Holds the run's lock meanwhile; False where a training holds it."""
    try:
        lock = os.open(run / "checkpoint" / ".lock", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield True  # without a lock file nothing was ever started here
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(lock)


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _bytes(path: Path) -> int:
    """What removing it frees: blocks on disk, links not followed."""
    total = path.lstat().st_blocks * 512
    if _real_folder(path):
        with os.scandir(path) as entries:
            total += sum(_bytes(Path(entry.path)) for entry in entries)
    return total


def _remove(path: Path, kind: str, report: Report, dry_run: bool) -> None:
    try:
        size = _bytes(path)
        if not dry_run:
            if _real_folder(path):
                shutil.rmtree(path)  # removes links, does not follow them
            else:
                path.unlink()
    except OSError as problem:
        report.kept.append(f"could not be removed ({problem.strerror}): {path}")
        return
    report.count[kind] += 1
    report.size[kind] += size


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m common.runs.clean", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--all", action="store_true", help="the results too, all but runs in progress")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    arguments = parser.parse_args()
    report = clean(arguments.results, everything=arguments.all, dry_run=arguments.dry_run, workflow=Path())
    say(report.text(arguments.dry_run))


if __name__ == "__main__":
    run_main(main)
