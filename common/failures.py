"""Which jobs failed, why, and where their logs are: one summary as the last lines of a workflow, however many there were."""

from __future__ import annotations

import atexit
import logging
from pathlib import Path
from typing import Any

from common.say import say_aside


class Failures(logging.Handler):
    """Hears what Snakemake logs. A job that went well at a later attempt has not failed."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.failed: dict[int, tuple[str, Path | None]] = {}  # job -> its name, its log
        self.finished = 0

    def emit(self, record: logging.LogRecord) -> None:
        event = str(getattr(record, "event", None))
        if event == "job_error":
            self._note(record.__dict__)
        elif event == "group_error":
            for job in record.__dict__.get("job_error_info", ()):
                self._note(job)
        elif event == "job_finished":
            self.finished += 1
            self.failed.pop(record.__dict__["job_id"], None)

    def _note(self, job: dict[str, Any]) -> None:
        logs = [Path(_plain(path)) for path in job.get("log") or ()]
        output = [_plain(path) for path in job.get("output") or ()]
        what = str(Path(output[0]).parent if "seed" in output[0] else output[0]) if output else ""
        log = next(
            (log for log in logs if log.exists()), None
        )  # of the job, or the scheduler's where it came not so far
        self.failed[job["jobid"]] = (f"{job['rule_name']} {what}".strip(), log)

    def summary(self) -> list[str]:
        if not self.failed:
            return []
        many = len(self.failed) > 1
        lines = [f"{len(self.failed)} {'jobs' if many else 'job'} failed; {self.finished} went well:"]
        for what, log in self.failed.values():
            lines += [f"  {what}: {why(log)}", *([f"      {log}"] if log else [])]
        lines.append(
            "what is finished is kept; the same command tries the others again, from their last checkpoint"
        )
        return lines

    def runs(self) -> dict[str, str]:
        """agent/task/size/seedN -> why, of those that are jobs of a run."""
        found = {}
        for what, log in self.failed.values():
            parts = Path(what.partition(" ")[2]).parts[-4:]
            if len(parts) == 4 and parts[-1].startswith("seed"):
                found["/".join(parts)] = why(log)
        return found

    def tell(self) -> None:
        if lines := self.summary():
            say_aside("\n".join(lines))


def _plain(path: str) -> str:
    """Without what Snakemake says of it in brackets: "(send to storage)"."""
    return path.partition(" (")[0]


def why(log: Path | None, longest: int = 300) -> str:
    """The error that a log ends with, or its last line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
    except OSError:
        lines = []
    errors = [line.strip().removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = errors or [line.strip() for line in lines if line.strip()] or ["it left no log"]
    return last[-1][:longest]


def listen() -> Failures:
    """From now on; the summary comes when the process ends, after all that Snakemake says."""
    failures = Failures()
    logging.getLogger("snakemake.logging").addHandler(failures)
    atexit.register(failures.tell)
    return failures
