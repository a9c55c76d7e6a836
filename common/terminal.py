"""What Snakemake says on a terminal: by default only what went wrong, since trainings, evaluations and pages speak for themselves.

All of its lines with `--verbose` (or `verbose: true` in a profile), in a dry run, and where the jobs run on a cluster.
"""

from __future__ import annotations

import logging
from typing import Any

KEPT = (
    "Nothing to be done",
    "Trying to restart",
    "Unlocked",
    "Would remove",
    "Touching",
)  # of its information


class Quiet(logging.Filter):
    """Passes warnings, errors and what else a person needs."""

    def __init__(self, workflow: Any):
        super().__init__()
        self.workflow = workflow

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.INFO or not self.workflow.local_exec:
            return True
        return record.levelno == logging.INFO and record.getMessage().startswith(KEPT)


def quieten(workflow: Any) -> None:
    """Snakemake's own log file, .snakemake/log, keeps every line."""
    settings = workflow.output_settings
    if settings.verbose or settings.dryrun or not workflow.is_main_process:
        return
    for handler in logging.getLogger("snakemake.logging").handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(Quiet(workflow))
