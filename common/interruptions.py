"""What happens to the workflow's own process, so that nothing begun is lost: it is stopped, it was killed.

Snakemake leaves a lock when it is killed, and passes no SIGTERM or SIGHUP on to the trainings that it started. Both are put
right here, for `./run snakemake` and for `snakemake` alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import psutil

from common.say import say_aside

_held: list[Any] = []  # open files: a lock lives as long as its file


# --- killed ---


def machine() -> set[str]:
    """What tells this machine from others: its name, and the kernel's number of this boot, which containers share."""
    names = {socket.gethostname()}
    with contextlib.suppress(OSError):
        names.add(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    return names


def hold(state: Path) -> bool:
    """Marks that a workflow is at work in Snakemake's folder `state`, for as long as this process lives.

    Where none is any more, Snakemake's lock is one that a killed workflow left, and is removed. True if it was. Nothing is
    removed where it cannot be known: the workflow was started on another machine, or the file system has no locks.
    """
    locks = state / "locks"
    try:
        state.mkdir(exist_ok=True)
        mark = open(state / "in-use", "a+")  # noqa: SIM115 (held as long as the process)
    except OSError:
        return False  # Snakemake needs the folder too, and says so
    left, others = locks.is_dir() and any(locks.iterdir()), []
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
        others = living(mark)
        _say_of_the_lock(others)
    except OSError:
        mark.close()
        return False
    if alone and left:
        mark.seek(0)
        if not machine() & set(mark.read().split()):
            mark.close()  # and its name stays in there
            return False
        shutil.rmtree(locks)
        say_aside(
            "a workflow that was killed here left its lock; it is removed, and its runs go on where they were"
        )
    fcntl.flock(mark, fcntl.LOCK_SH)
    mark.truncate(0)
    mark.write(" ".join([*sorted(machine()), *(f"process={pid}" for pid in [*others, os.getpid()])]))
    mark.flush()
    _held.append(mark)
    return alone and left


def living(mark: IO[str]) -> list[int]:
    """The processes of this machine that a mark names, and that live."""
    mark.seek(0)
    words = set(mark.read().split())
    named = [int(word[8:]) for word in words if re.fullmatch("process=[0-9]{1,9}", word)]
    return sorted(filter(psutil.pid_exists, named)) if machine() & words else []


def _say_of_the_lock(others: list[int]) -> None:
    """Snakemake's error, where two commands make the same files, advises to remove the lock: of one that lives, that is wrong."""
    if "snakemake.exceptions" not in sys.modules:
        return
    exceptions = sys.modules["snakemake.exceptions"]
    who = f" ({' or '.join(f'process {pid}' for pid in others)})" if others else ""

    def say(problem: Exception) -> None:
        exceptions.WorkflowError.__init__(
            problem,
            f"another command{who} is making some of the same pages or runs in this clone; wait until it has ended, or stop "
            "it and name all pages in one command",
        )

    exceptions.LockException.__init__ = say


# --- stopped ---


def trainings() -> list[psutil.Process]:
    """The processes that the shells of this process's jobs have started: trainings, evaluations, pages."""
    found = []
    for shell in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            found += shell.children()
    return found


def pass_on_signals(started: Callable[[], Iterable[psutil.Process]] = trainings, every: float = 0.3) -> None:
    """From now on SIGINT, SIGTERM and SIGHUP stop the trainings, which save, and then Snakemake, as Ctrl-C does.

    A signal that is ignored stays ignored: nohup does so with SIGHUP. Snakemake waits until the trainings have ended; those
    that start meanwhile are stopped too.
    """
    told: set[int] = set()

    def tell() -> None:
        for process in started():
            if process.pid not in told:
                told.add(process.pid)
                with contextlib.suppress(psutil.Error):  # it has ended by itself
                    process.send_signal(signal.SIGTERM)

    def keep_telling() -> None:
        while True:
            tell()
            time.sleep(every)

    def stop(number: int, _frame: Any) -> None:
        if stopping.is_set():
            return
        stopping.set()
        threading.Thread(target=keep_telling, daemon=True).start()
        say_aside(
            f"{signal.Signals(number).name}: the trainings save and stop; the same command goes on from there"
        )
        raise KeyboardInterrupt

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
