"""No test talks to a tracking server, and none competes with itself for the cores.

The whole suite, or a folder of it, runs in two processes, each with files of its own (pytest-xdist). A file or a
test asked for by name runs in this process, where it starts sooner and prints what it prints. `-n N` says otherwise.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

# Whatever the machine says: a mirror that a test leaves open in this process would be the next test's. Tests of the mirror,
# and those that run the workflow, ask for it in processes of their own.
os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes, two cores
# Under nohup and in the background these are ignored, and would be in all that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _denormal_numbers():
    """A training of DDPG in this process rounds them to zero for good; the next test finds them as they were."""
    yield
    torch.set_flush_denormal(False)


def pytest_xdist_auto_num_workers(config) -> int:
    """What `-n auto` in pyproject.toml means."""
    folders = all(Path(argument).is_dir() for argument in config.args)
    return 2 if folders and (os.cpu_count() or 1) > 1 else 0
