"""No test talks to a tracking server, and none competes with itself for the cores.

The whole suite, or a folder of it, runs in two processes, each with files of its own (pytest-xdist). A file or a
test asked for by name runs in this process, where it starts sooner and prints what it prints. `-n N` says otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path

# Whatever the machine says: a mirror that a test leaves open in this process would be the next test's. Tests of the mirror,
# and those that run the workflow, ask for it in processes of their own.
os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes, two cores


def pytest_xdist_auto_num_workers(config) -> int:
    """What `-n auto` in pyproject.toml means."""
    folders = all(Path(argument).is_dir() for argument in config.args)
    return 2 if folders and (os.cpu_count() or 1) > 1 else 0
