"""The runs of one page: what is finished, what is still running, and whether the seeds may be averaged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from common import papers
from common.errors import UserError
from common.say import say_aside
from reports.files import (
    CLAIMS_RUN_SCHEMA,
    MEASURES_SCHEMA,
    RUN_SCHEMA,
    Curve,
    damaged,
    read_curve,
    read_evaluation,
    read_json,
    read_points,
    read_status,
    training_scores,
    with_hours,
)
from reports.target import PageTarget, roots
from reports.words import shown

SIZE = re.compile(r"[a-z0-9_]+|frames-[0-9]+|.+-set-[0-9a-f]{8}")
SEED = re.compile(r"seed([0-9]+)")


@dataclass(frozen=True)
class SeedRun:
    """One seed's folder, of a training or of a task with claims (which has measures and points, and no evaluation).

    `state`: finished, unevaluated (trained, no evaluation yet), training, evaluating, stopped, failed; of a task with
    claims finished or unfinished. points: (figure, series) -> {x: y}.
    """

    folder: Path
    source: str  # own | recorded
    size: str
    seed: int
    state: str
    curve: Curve = field(default_factory=Curve)
    run: dict | None = None
    evaluation: dict | None = None
    status: dict | None = None
    measures: dict[str, float] = field(default_factory=dict)
    points: dict[tuple[str, str], dict[float, float]] = field(default_factory=dict)

    @property
    def agent_steps(self) -> int:
        if self.run:
            return int(self.run["progress"]["agent_steps"])
        return int((self.status or {}).get("agent_steps") or 0)

    @property
    def undecided(self) -> dict[str, str]:
        """Why measures could not be taken (common/runs/laptop.py), by name."""
        return self.run["provenance"].get("undecided", {})

    @property
    def superseded(self) -> str | None:
        """What has changed in the rules since a recorded run was made."""
        return (self.run or {}).get("superseded")

    @property
    def video(self) -> Path | None:
        return self._file("episode.mp4")

    @property
    def best_video(self) -> Path | None:
        """The best episode, where the evaluation filmed one that is better than the median."""
        return self._file("best.mp4") if (self.evaluation or {}).get("best_video") else None

    def _file(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() and path.stat().st_size else None


def read_run(folder: Path, source: str, target: PageTarget) -> SeedRun | None:
    """The run in `folder`, or None where nothing was started there. UserError for damaged files or those of another run."""
    size, seed = folder.parent.name, int(SEED.fullmatch(folder.name)[1])
    claims = target.task.claims
    if not (folder / "run.json").exists():
        if (folder / "checkpoint").is_dir():
            unfinished = SeedRun(folder, source, size, seed, "unfinished")
            return unfinished if claims else _running(unfinished)
        outputs = ("curve.csv", "model.safetensors", "evaluation.json")
        if not claims and any((folder / name).exists() for name in outputs):
            raise damaged(folder / "run.json", "the file is missing, though other results are there")
        return None
    run = read_json(folder / "run.json", CLAIMS_RUN_SCHEMA if claims else RUN_SCHEMA)
    names = {
        "paper": target.paper.name,
        "variant": target.variant_name,
        "task": target.task.name,
        "seed": seed,
    }
    for key, expected in names.items():
        found = run.get(key) or (None if key == "variant" else run.get(key))
        if found != (expected or None if key == "variant" else expected):
            raise damaged(folder / "run.json", f"at {key}: {found!r}, but its folder says {expected!r}")
    if claims:
        return _with_measures(SeedRun(folder, source, size, seed, "finished", run=run), target)
    curve = with_hours(read_curve(folder / "curve.csv"), folder / "timing.csv")
    if not (folder / "evaluation.json").exists():
        return SeedRun(folder, source, size, seed, "unevaluated", curve, run, status=read_status(folder))
    return SeedRun(
        folder, source, size, seed, "finished", curve, run, read_evaluation(folder / "evaluation.json")
    )


def _running(run: SeedRun) -> SeedRun:
    """With the state and the curve of a training that is not finished."""
    status = read_status(run.folder)
    state = status.get("state")
    state = state if state in ("training", "evaluating", "stopped", "failed") else "training"
    live = run.folder / "checkpoint" / "live"
    curve = with_hours(read_curve(live / "curve.csv", live=True), live / "timing.csv")
    if not any(curve.columns.values()):  # no evaluation phase yet
        curve = training_scores(live / "episodes.csv")
    return replace(run, state=state, curve=curve, status=status)


def _with_measures(run: SeedRun, target: PageTarget) -> SeedRun:
    """With what a task's claims are about. UserError where a claim has no measure to be judged by."""
    file = run.folder / "measures.json"
    measures = read_json(file, MEASURES_SCHEMA)
    for claim in target.task.claims:
        if claim.measure in run.undecided and claim.measure not in measures:
            continue
        value = measures.get(claim.measure, math.nan)
        if not math.isfinite(value):
            raise damaged(file, f"the claim {claim.name!r} needs the number {claim.measure!r}")
        if claim.factor and value <= 0:
            raise damaged(file, f"claim {claim.name!r}: {value} is no ratio")
    return replace(run, measures=measures, points=read_points(run.folder / "points.csv"))


def find_runs(
    target: PageTarget, results: Path, only: str | None = None
) -> tuple[list[tuple[str, str, list[SeedRun]]], list[str]]:
    """(source, size, runs by seed) for each size there is something of, in the order of the page; and what was left out.

    only: a size with settings of one's own, which is on no page but its own.

    One's own runs that cannot be used (damaged, or of an older form of the task) are left out, which stderr says too; a
    UserError where nothing else is there.
    """
    found, problems = [], []
    for source, root in roots(target, results).items():
        for size in sorted(p for p in root.glob("*") if p.is_dir() and SIZE.fullmatch(p.name)):
            if size.name != only and (only or papers.is_overridden(size.name)):
                continue
            runs, unusable = runs_of_size(size, source, target)
            problems += unusable
            if runs:
                found.append((source, size.name, runs))
    if problems and not found:
        raise problems[0][1]
    found.sort(key=lambda item: order(target, *item))
    left_out = [f"Your own run {shown(folder)} is left out: {problem}." for folder, problem in problems]
    for line in left_out:
        warn_once(line)
    return found, left_out


@cache  # the pages of many runs read some of them more than once
def warn_once(line: str) -> None:
    say_aside(f"warning: {line}")


def sizes_of_own_settings(target: PageTarget, results: Path) -> list[str]:
    """The sizes with settings of one's own that there is something of."""
    own = roots(target, results)["own"]
    return sorted(p.name for p in own.glob("*-set-*") if papers.is_overridden(p.name) and p.is_dir())


def runs_of_size(
    size: Path, source: str, target: PageTarget
) -> tuple[list[SeedRun], list[tuple[Path, UserError]]]:
    """By seed; and one's own runs that cannot be used. UserError for a recorded one."""
    runs, unusable = [], []
    seeds = [p for p in size.iterdir() if p.is_dir() and SEED.fullmatch(p.name)]
    for folder in sorted(seeds, key=lambda p: int(p.name[4:])):
        try:
            run = read_run(folder, source, target)
        except UserError as problem:
            if source == "recorded":
                raise
            unusable.append((folder, problem))
            continue
        if run is not None:
            runs.append(run)
    return runs, unusable


def differences(runs: list[SeedRun]) -> list[dict]:
    """What keeps finished seeds from being averaged: `what` and, for each value found, the seeds and folders that
    have it.
    """
    readers = {
        "code fingerprint": lambda r: r.run["provenance"].get("code_sha256"),
        "dependency lock": lambda r: r.run["provenance"].get("lock_sha256"),
        "ROM checksum": lambda r: r.run["provenance"].get("rom_sha256"),
    }
    for name in sorted({name for r in runs for name in r.run["settings"]} - {"seed"}):
        readers[f"setting {name}"] = lambda r, name=name: r.run["settings"].get(name)
    for name in ("name", "episodes", "epsilon", "max_frames", "noop_max", "weights"):
        readers[f"evaluation {name}"] = lambda r, name=name: (r.evaluation or {"protocol": {}})[
            "protocol"
        ].get(name)
    found = []
    for what, read in readers.items():
        groups: dict[str, list[SeedRun]] = {}
        for run in runs:
            groups.setdefault(json.dumps(read(run), sort_keys=True, default=str), []).append(run)
        if len(groups) > 1:
            values = [{"value": json.loads(value), "runs": members} for value, members in groups.items()]
            found.append({"what": what, "values": values})
    return found


def finished_of(runs: Sequence[SeedRun]) -> list[SeedRun]:
    return [run for run in runs if run.state == "finished"]


SIZES_OF_CLAIMS = {"paper": 0, "hour": 1, "smoke": 3}


def order(target: PageTarget, source: str, size: str, runs: Sequence[SeedRun]) -> tuple:
    """Which of a page's sizes comes first: finished ones; then the longest; at equal length one's own."""
    finished = finished_of(runs)
    if target.task.claims:  # these have no length
        return not finished, SIZES_OF_CLAIMS.get(size, 2), source != "own", size
    return not finished, -max(run.agent_steps for run in finished or runs), source != "own", size
