"""A task with claims: a small exact claim of a paper, checked by a script of its own that trains no agent on a game.

A script has a `Config`, a function `experiment(config, seed) -> Findings`, and calls `main`. Its claims stand in paper.yaml as
inequalities on the measures. A run is minutes long, so one that was stopped starts over; what it leaves is written by rename,
under the same lock, with the same provenance as a training's: `measures.json` (name: number), `points.csv` (the figures' data),
`run.json` last. A script whose runs are long keeps what it has finished in a folder that it is given (`keeps`).

A measure that cannot be taken (a machine has too few cores) is no number: it is left out of `measures.json`, `run.json` says why
under provenance.undecided, and claims about it are open.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import papers
from common.errors import UserError, run_main
from common.runs.folder import RunFolder
from common.say import say

OUTPUTS = ("measures.json", "points.csv", "run.json")  # run.json last
POINTS = ("figure", "series", "x", "y")


@dataclass(frozen=True)
class Findings:
    """measures: what the claims are about, by name. points: (figure, series, x, y) of every curve drawn.

    undecided: why a measure that a claim is about could not be taken, by name. files: what else the run leaves, by name.
    """

    measures: dict[str, float]
    points: Sequence[tuple[str, str, float, float]]
    undecided: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def files_of(findings: Findings) -> dict[str, bytes]:
    """measures.json and points.csv, with nothing of a clock in them. UserError for a measure that is not a number."""
    for name, value in findings.measures.items():
        if not math.isfinite(value):
            raise UserError(
                f"the measure {name} came out as {value}, which no claim can be checked on; a setting is at fault"
            )
    measures = {name: float(value) for name, value in findings.measures.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(POINTS)
    writer.writerows((figure, series, f"{x:.9g}", f"{y:.9g}") for figure, series, x, y in findings.points)
    return {
        "measures.json": (json.dumps(measures, indent=1) + "\n").encode(),
        "points.csv": text.getvalue().encode(),
    }


def check_claims(task: papers.Task, measures: dict[str, float], undecided: Collection[str] = ()) -> None:
    """UserError when a claim speaks of a measure that the script does not make, nor says why it could not."""
    for claim in task.claims:
        if claim.measure not in measures and claim.measure not in undecided:
            raise UserError(
                f"the claim {claim.name!r} is about {claim.measure!r}; the measures are {', '.join(measures)}"
            )


class ClaimsRun:
    """What one run of a task with claims is, for run.json."""

    def __init__(
        self, resolved: papers.Resolved, seed: int, threads: int, command: str, files: Sequence[str] = ()
    ):
        from common.runs.provenance import key_of, provenance

        self.seed, self.files = seed, tuple(files)
        self.paper, self.task, self.size = resolved.paper, resolved.task, resolved.budget
        self.variant, self.asked = resolved.variant.name or None, resolved.asked
        self.settings = resolved.settings
        self.settings_key = papers.settings_key(resolved, seed)
        self.provenance = provenance(self.paper.name, self.task, "cpu", threads, command)
        self.key = f"{self.settings_key}-{key_of(self.provenance)}"

    def folder_in(self, results: Path) -> RunFolder:
        path = papers.run_dir(self.paper.name, self.variant, self.task.name, self.size, self.seed, results)
        return RunFolder(path, self.settings_key, self.key, (*self.files, *OUTPUTS))


def main(
    paper: str, script: str, config_class: type, experiment: Callable[..., Findings], *, keeps: bool = False,
    files: Sequence[str] = (),
) -> None:  # fmt: skip
    """What `python -m replications.<paper>.<script>` does; `--task` is the one that has this script, unless given.

    keeps: `experiment(config, seed, folder)` gets a folder that lasts until the run is finished, for these settings alone.
    files: names of what its findings leave beside measures and points.
    """
    from common.runs import command_line  # loads torch, which only running needs
    from common.runs.description import describe, peak_memory_mb
    from common.runs.provenance import now

    def run_it() -> None:
        tasks = [task.name for task in papers.load_paper(paper).tasks.values() if task.script == script]
        given = ["--device", "cpu", *sys.argv[1:]]
        if tasks and not any(word == "--task" or word.startswith("--task=") for word in given):
            given = ["--task", tasks[0], *given]
        known, resolved = command_line.parse(paper, config_class, given, script)
        if resolved.task.script != script:
            raise UserError(
                f"the task {resolved.task.name!r} is not of this script; its own is {', '.join(tasks)}"
            )
        if known.device != "cpu":
            raise UserError(f"--device {known.device}: a task with claims runs on the CPU; leave it out")
        command = " ".join([f"python -m replications.{paper}.{script}", *sys.argv[1:]])
        threads = command_line.prepare(known.seed, known.threads or 1)
        run = ClaimsRun(resolved, known.seed, threads, command, files)
        folder = run.folder_in(known.results)
        try:
            changed = known.resume_changed
            if folder.take(fresh=known.fresh, resume_changed=changed, whole_length=True, command=command):
                say(f"finished already: {folder.path}")
                return
            say(f"{paper} {resolved.task.name} seed {known.seed}, size {run.size}; results in {folder.path}")
            started = time.monotonic()
            kept = _kept(folder.work, f"kept-{run.settings_key}", known.fresh) if keeps else None
            findings = experiment(config_class(**resolved.settings), known.seed, *([kept] if keeps else []))
            made = files_of(findings) | findings.files
            check_claims(resolved.task, findings.measures, findings.undecided)
            notes = []
            if findings.undecided:
                run.provenance["undecided"] = dict(findings.undecided)
                for why in dict.fromkeys(findings.undecided.values()):
                    names = ", ".join(name for name, its in findings.undecided.items() if its == why)
                    notes.append(f"undecided, {why}: {names}")
            seconds = time.monotonic() - started
            found = describe(run) | {
                "provenance": run.provenance | {"finished": now(), "notes": notes},
                "cost": {"seconds": round(seconds, 1), "attempts": 1, "peak_memory_mb": peak_memory_mb()},
            }
            folder.write_done(made | {"run.json": (json.dumps(found, indent=1) + "\n").encode()}, "length")
            folder.write_outputs()
            if kept:
                shutil.rmtree(kept)
            say(f"done in {datetime.timedelta(seconds=round(seconds))}; {folder.path}")
        finally:
            folder.release()

    run_main(run_it)


def _kept(work: Path, name: str, fresh: bool) -> Path:
    """The folder of what an experiment has finished so far; `fresh` puts an earlier one aside."""
    folder, number = work / name, 1
    if fresh and folder.exists():
        while (aside := work / f"stale-{name}-{number}").exists():
            number += 1
        folder.rename(aside)
    folder.mkdir(exist_ok=True)
    return folder
