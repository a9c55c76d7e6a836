"""Measured processes that wait while another one is measured.

Each subject lives in a process of its own: one library's threads, allocator and settings cannot touch the other's, and its
warm-up happens once. The parent sends a command; the process runs one slice, answers, and sleeps until the next one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 900  # a slice takes seconds, filling a million-frame ring a few minutes


class WorkerFailed(Exception):
    """A measured process raised or died; what it measures is left out."""


class Finished(Exception):
    """The parent asks for nothing more."""


@dataclass(frozen=True)
class Failure:
    reason: str


class Worker:
    """A process that runs `function(connection, options)` of a module; `ask` sends it a command and waits for the answer.

    The option `children` says that it starts processes of its own, which must end when it does; `patience`, how many seconds an
    answer may take.
    """

    def __init__(self, name: str, target: str, options: dict[str, Any], folder: Path):
        self.name, self.log = name, folder / f"{name}.log"
        self._failure: Failure | None = None  # the first one; it stays the answer
        self.patience = options.get("patience", ANSWER_SECONDS)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(target, theirs, options, self.log), name=name)
        self._process.daemon = not options.get("children", False)
        self._process.start()
        theirs.close()

    @functools.cached_property
    def ready(self) -> Any:
        """What the process says once it has started and warmed up; waits for that. Several can start side by side."""
        return self._answer()

    def ask(self, *command: Any) -> Any:
        _ = self.ready
        with contextlib.suppress(OSError):  # of a process that has died; waiting for its answer says so
            self._connection.send(command)
        return self._answer()

    def _answer(self) -> Any:
        if self._failure is None:
            try:
                if self._connection.poll(self.patience):
                    answer = self._connection.recv()
                else:
                    answer = Failure(f"no answer within {self.patience} s")
            except (EOFError, OSError):
                answer = Failure(f"the process died; {_last_line(self.log)}")
            if not isinstance(answer, Failure):
                return answer
            self._failure = answer
        raise WorkerFailed(f"{self.name}: {self._failure.reason}")

    def hang_up(self) -> None:
        """The closed pipe tells the process to leave when its slice is over."""
        self._connection.close()

    def close(self) -> None:
        """Ends the process; if it does not leave by itself, it is killed."""
        self.hang_up()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it printed nothing"


def _run(target: str, connection: Connection, options: dict[str, Any], log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["WANDB_MODE"] = "disabled"
    module, function = target.split(":")
    try:
        getattr(importlib.import_module(module), function)(connection, options)
    except (EOFError, BrokenPipeError, Finished, KeyboardInterrupt):
        pass
    except BaseException as problem:
        traceback.print_exc()
        connection.send(Failure(f"{type(problem).__name__}: {problem}"))


def serve(connection: Connection, commands: dict[str, Callable[..., Any]]) -> None:
    """Says that it is ready, then answers commands until the parent closes the pipe (EOFError)."""
    connection.send("ready")
    while True:
        name, *arguments = connection.recv()
        connection.send(commands[name](*arguments))


class Gate:
    """Lets a loop that counts agent steps through in slices: call it once a step.

    The first `warm_up` steps pass, then it sends `ready`. From then on it waits for ("steps", count), lets them pass, and
    sends the seconds that they took.
    """

    def __init__(self, connection: Connection, warm_up: int, ready: object = "ready"):
        self.connection, self.until, self.ready = connection, warm_up, ready
        self.began: float | None = None

    def __call__(self, steps: int) -> bool:
        """True when it has waited."""
        if steps < self.until:
            return False
        self.connection.send(self.ready if self.began is None else time.perf_counter() - self.began)
        _, count = self.connection.recv()
        self.until = steps + count
        self.began = time.perf_counter()
        return True
