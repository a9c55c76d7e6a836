"""Worker processes that share memory, can be brought to rest together, and leave nothing behind.

Processes are forked, not spawned: shared vectors are anonymous mappings that children inherit, so nothing ever stands in
/dev/shm, and sixteen workers share one copy of PyTorch. Forking is safe because it happens before the parent opens threads
that hold locks (tracker, checkpoint writer), and because a worker runs PyTorch with one thread and never on a GPU.

A worker is any object with `wants(until)`, `work()`, `state_dict()` and `load_state_dict(state)`, made in its own process.
A worker dies with its parent however that ends: by the kernel where it can (Linux), else by noticing that it has another parent.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from common.errors import UserError
from common.learning.layers import flatten_parameters

PR_SET_PDEATHSIG = 1 if sys.platform == "linux" else None
POLL = 0.2  # seconds between two looks at whether the workers should rest


def shared_zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Zeros in memory that processes forked later share with this one; freed by the kernel with the last of them."""
    count = int(torch.Size(shape).numel())
    return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize), dtype=dtype, count=count).view(shape)


def share_parameters(module: torch.nn.Module) -> torch.Tensor:
    """Moves a module's parameters into one shared flat vector, in the order of `flatten_parameters`; returns it, (P,)."""
    private, _ = flatten_parameters(module)
    weights = shared_zeros(len(private), dtype=private.dtype)
    weights.copy_(private)
    for p in module.parameters():
        p.data, p.grad = weights.as_strided(p.shape, p.stride(), p.storage_offset()), None
    return weights


class Worker(Protocol):
    def wants(self, until: int) -> bool:
        """False when the common counter has reached `until`."""

    def work(self) -> list[Any]:
        """One indivisible piece of work; returns what the parent should hear of it."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Workers:
    """`count` processes, worker i made by `make(i)`. At rest except during `run`; a context manager that ends them.

    Every method raises UserError with the worker's own traceback, or the signal that killed it, when one has died.
    """

    def __init__(self, count: int, make: Callable[[int], Worker]):
        context = multiprocessing.get_context("fork")
        self._rest = shared_zeros(1, dtype=torch.uint8)
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        sys.stdout.flush()
        try:
            for i in range(count):
                ours, theirs = context.Pipe()
                self._pipes.append(ours)
                process = context.Process(
                    target=_serve,
                    args=(i, make, theirs, list(self._pipes), self._rest, os.getpid()),
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._processes.append(process)
            self._ask("hello", [None] * count)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def run(
        self,
        until: int,
        seconds: float,
        interrupted: Callable[[], bool],
        hear: Callable[[Any], None] = lambda _: None,
    ) -> None:
        """Lets all work until the common counter is at `until`, `seconds` have passed, or `interrupted()`; then all rest.

        hear: called with each thing that a worker's `work` returned, in the order of arrival.
        """
        self._rest[0] = 0
        end = time.monotonic() + seconds
        for i in range(len(self._pipes)):
            self._send(i, ("run", until))
        working = set(range(len(self._pipes)))
        while working:
            left = end - time.monotonic()
            if left <= 0 or interrupted():
                self._rest[0] = 1
            for i, (kind, value) in self._messages(working, POLL if left <= 0 else min(POLL, left)):
                if kind == "resting":
                    working.discard(i)
                else:
                    hear(value)

    def state_dict(self) -> dict:
        return {"workers": self._ask("save", [None] * len(self._pipes))}

    def load_state_dict(self, state: dict) -> None:
        if len(state["workers"]) != len(self._pipes):
            raise ValueError(
                f"the checkpoint holds {len(state['workers'])} workers, this run has {len(self._pipes)}"
            )
        self._ask("load", state["workers"])

    def close(self) -> None:
        """Ends all workers at once: whatever they held is gone."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _ask(self, command: str, values: list[Any]) -> list[Any]:
        """Sends a command to all and waits for every answer, in the order of the workers."""
        for i, value in enumerate(values):
            self._send(i, (command, value))
        answers: dict[int, Any] = {}
        while len(answers) < len(values):
            answers |= {
                i: value for i, (_, value) in self._messages(set(range(len(values))) - set(answers), None)
            }
        return [answers[i] for i in range(len(values))]

    def _send(self, i: int, message: tuple) -> None:
        try:
            self._pipes[i].send(message)
        except OSError:
            self._died(i)

    def _messages(self, of: set[int], timeout: float | None) -> list[tuple[int, tuple]]:
        """What has come from these workers; looks at all of them for deaths."""
        by_object: dict[Any, int] = {self._pipes[i]: i for i in of}
        by_object |= {process.sentinel: i for i, process in enumerate(self._processes)}
        found = []
        for ready in wait(list(by_object), timeout):
            i = by_object[ready]
            if not isinstance(ready, Connection):
                self._died(i)
            try:
                message = ready.recv()
            except (EOFError, OSError):
                self._died(i)
            if message[0] == "failed":
                self._died(i, message[1])
            found.append((i, message))
        return found

    def _died(self, i: int, why: str = "") -> None:
        process = self._processes[i]
        pipe = self._pipes[i]
        while not why and not pipe.closed:  # its last words may wait behind other messages
            try:
                message = pipe.recv() if pipe.poll() else ("gone", None)
            except (EOFError, OSError):
                break
            if message[0] == "gone":
                break
            why = message[1] if message[0] == "failed" else ""
        process.join(5)
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else "failed"
        raise UserError(
            f"worker {i} (process {process.pid}) {how}; all workers were stopped. The last checkpoint is kept: "
            f"the same command goes on from there{chr(10) + why if why else ''}"
        )


def _serve(
    index: int, make, pipe: Connection, others: list[Connection], rest: torch.Tensor, parent: int
) -> None:
    """The life of a worker process."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends these to all processes; the parent decides
    if PR_SET_PDEATHSIG is not None:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for other in others:  # the parent's ends: held here, they would hide its death from the worker that waits
        other.close()
    torch.set_num_threads(1)
    try:
        worker = make(index)
        while os.getppid() == parent:
            command, value = pipe.recv()
            if command == "run":
                while not rest[0] and worker.wants(value) and os.getppid() == parent:
                    for news in worker.work():
                        pipe.send(("news", news))
                pipe.send(("resting", None))
            elif command == "load":
                worker.load_state_dict(value)
                pipe.send(("loaded", None))
            else:
                pipe.send(("answer", worker.state_dict() if command == "save" else None))
    except (EOFError, BrokenPipeError):  # the parent is gone
        os._exit(1)
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))
        os._exit(1)
    os._exit(0)
