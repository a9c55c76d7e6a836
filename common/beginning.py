"""What happens when jobs are about to start."""

from __future__ import annotations

import atexit
import contextlib
import json
from pathlib import Path
from typing import Any

from common import failures, slurm
from common.files import write_file
from common.interruptions import pass_on_signals
from common.runs.status import ASKED, FAILED, asked_in, failed_in


def begin(flow: Any, workflow: Any) -> None:
    """Checks this machine, notes which runs were asked for, and listens for what goes wrong."""
    flow.check_here(workflow.local_exec)
    results, jobs = Path(flow.config["results"]), list(workflow.dag.needrun_jobs())
    runs = {run_of(job) for job in jobs if job.rule.name in ("train", "claims")}
    evaluated = {run_of(job) for job in jobs if job.rule.name == "evaluate"}
    failed = {run: why for run, why in failed_in(results).items() if run not in runs | evaluated}
    heard = failures.listen()
    if runs | evaluated:  # else nothing is noted, and a folder that was named by mistake is not made
        note(results / ASKED, "".join(f"{run}\n" for run in sorted(runs | asked_in(results))))
        note(results / FAILED, json.dumps(failed))
        atexit.register(lambda: note(results / FAILED, json.dumps(failed_in(results) | heard.runs())))
    if workflow.local_exec:
        pass_on_signals()
    elif "slurm" in type(workflow.executor_settings).__module__:
        slurm.watch()


def run_of(job: Any) -> str:
    w = job.wildcards
    return "/".join((w.agent, w.task, w.size, f"seed{w.seed}"))


def note(path: Path, text: str) -> None:
    """For `./run status`; it only informs, so a full disk is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode())
