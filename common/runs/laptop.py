"""A laptop task: a small exact claim of a paper, checked by a script of its own that trains no agent on a game.

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
import hashlib
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

OUTPUTS = ("measures.json", "points.csv", "run.json")  # run.json last
POINTS = ("figure", "series", "x", "y")


@dataclass(frozen=True)
class Findings:
    """measures: what the claims are about, by name. points: (figure, series, x, y) of every curve drawn.

    undecided: why a measure that a claim is about could not be taken, by name.
    """

    measures: dict[str, float]
    points: Sequence[tuple[str, str, float, float]]
    undecided: Mapping[str, str] = field(default_factory=dict)


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


def main(
    paper: str, script: str, config_class: type, experiment: Callable[..., Findings], *, keeps: bool = False,
    with_training: bool = False,
) -> None:  # fmt: skip
    """What `python -m replications.<paper>.<script>` does; `--task` is the one that has this script, unless given.

    keeps: `experiment(config, seed, folder)` gets a folder that lasts until the run is finished, for these settings alone.
    with_training: it trains agents with `train.py`, so that one's code counts as its own.
    """
    from common.runs import run as runs  # loads torch, which only running needs

    class LaptopRun(runs.Run):
        def _provenance(self) -> dict:
            found = super()._provenance()
            if with_training:
                codes = found["code_sha256"] + runs.code_fingerprint(paper)
                found["code_sha256"] = hashlib.sha256(codes.encode()).hexdigest()
            return found

    def run_it() -> None:
        tasks = [task.name for task in papers.load_paper(paper).tasks.values() if task.script == script]
        given = ["--device", "cpu", *sys.argv[1:]]
        if tasks and not any(word == "--task" or word.startswith("--task=") for word in given):
            given = ["--task", tasks[0], *given]
        known, resolved = runs.parse(paper, config_class, given, script)
        if resolved.task.script != script:
            raise UserError(
                f"the task {resolved.task.name!r} is not of this script; its own is {', '.join(tasks)}"
            )
        if known.device != "cpu":
            raise UserError(f"--device {known.device}: a laptop task runs on the CPU; leave it out")
        threads = runs.prepare(known.seed, known.threads or 1)
        run = LaptopRun(
            resolved, known.seed, device="cpu", threads=threads, results=known.results,
            command=" ".join([f"python -m replications.{paper}.{script}", *sys.argv[1:]]),
        )  # fmt: skip
        run.outputs = OUTPUTS
        try:
            if run.open(known.fresh):
                runs.say(f"finished already: {run.folder}")
                return
            runs.say(
                f"{paper} {resolved.task.name} seed {known.seed}, size {run.size}; results in {run.folder}"
            )
            started = time.monotonic()
            kept = _kept(run.work, f"kept-{run.settings_key}", known.fresh) if keeps else None
            findings = experiment(config_class(**resolved.settings), known.seed, *([kept] if keeps else []))
            files = files_of(findings)
            check_claims(resolved.task, findings.measures, findings.undecided)
            if findings.undecided:
                run.provenance["undecided"] = dict(findings.undecided)
                for why in dict.fromkeys(findings.undecided.values()):
                    names = ", ".join(name for name, its in findings.undecided.items() if its == why)
                    run.notes.append(f"undecided, {why}: {names}")
            seconds = time.monotonic() - started
            run.finish_laptop(files, seconds)
            if kept:
                shutil.rmtree(kept)
            runs.say(f"done in {datetime.timedelta(seconds=round(seconds))}; {run.folder}")
        finally:
            run.close()

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
