"""The machine that was measured, and whether it was quiet."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from common.runs.provenance import cpu_name

ROOT = Path(__file__).resolve().parent.parent
BUSY_LOAD, BUSY_CORES = 0.7, 0.2  # load average at the start; cores used by others between slices
PACKAGES = ("torch", "ale-py", "gymnasium", "numpy", "opencv-python-headless", "stable-baselines3")


def describe() -> dict:
    """CPU, cores and memory in GB (1e9 bytes)."""
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": memory,
        "system": f"{sys.platform} {platform.machine()}",
    }


def versions() -> dict[str, str | None]:
    """Of Python and of what is measured; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """The checkout's commit, with "+changes" when files that git knows differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=30
        )
        diff = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if diff.stdout.strip() else "")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def about(began: float, load: list[float], threads: int) -> dict[str, Any]:
    """When and where something was measured, for its JSON. began: time.monotonic() then; load: the load average then."""
    return {
        "date": now(),
        "seconds": round(time.monotonic() - began),
        "machine": describe(),
        "versions": versions(),
        "commit": commit(),
        "threads": threads,
        "load_average": {"start": load, "end": load_average()},
    }


def other_load(seconds: float) -> float:
    """Cores in use over so many seconds. Called while every measured process is paused, so it is the load of others."""
    return psutil.cpu_percent(interval=seconds) / 100 * (os.cpu_count() or 1)


def complaints(load: float, other: float | None) -> list[str]:
    """Why the figures cannot be trusted: load average at the start, cores used by others between slices (None: unknown)."""
    found = []
    if load > BUSY_LOAD:
        found.append(f"the machine was not quiet at the start: load average {load:.2f}")
    if other is not None and other > BUSY_CORES:
        found.append(f"other processes used {other:.2f} cores between the measured slices")
    return found


def resident_gb() -> float:
    """Resident memory of this process, mapped files included."""
    return psutil.Process().memory_info().rss / 1e9


def peak_resident_gb() -> float:
    """The largest that `resident_gb` was in this process."""
    try:  # getrusage would also know what the parent had when it started this process
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e9 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
