"""Worker processes: they share memory, rest together, tell why they died, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from common.errors import UserError
from common.learning import workers as module
from common.learning.workers import Workers, share_parameters, shared_zeros
from tests.training import ROOT, environment, wait_for


class Counter:
    """Adds one to its own cell per piece of work, and has a state that only it knows."""

    def __init__(self, index: int, cells: torch.Tensor):
        self.index, self.cells, self.pieces = index, cells, 0

    def wants(self, until: int) -> bool:
        return int(self.cells.sum()) < until

    def work(self) -> list[tuple[int, int]]:
        time.sleep(0.001)
        self.cells[self.index] += 1
        self.pieces += 1
        if self.cells[self.index] < 0:
            raise RuntimeError("a cell below zero")
        return [(self.index, self.pieces)] if self.pieces % 5 == 0 else []

    def state_dict(self) -> dict:
        return {"pieces": self.pieces, "pid": os.getpid(), "threads": torch.get_num_threads()}

    def load_state_dict(self, state: dict) -> None:
        self.pieces = state["pieces"]


def counters(count: int) -> tuple[torch.Tensor, Workers]:
    cells = shared_zeros(count, dtype=torch.int64)
    return cells, Workers(count, lambda i: Counter(i, cells))


def in_dev_shm() -> set[str]:
    return (
        {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}
        if os.path.isdir("/dev/shm")
        else set()
    )


def test_workers_share_memory_and_rest_together():
    before = in_dev_shm()
    cells, workers = counters(3)
    heard = []
    with workers:
        workers.run(60, 30, lambda: False, heard.append)
        reached = cells.tolist()
        assert 60 <= sum(reached) < 60 + 3  # each may be in its last piece when the others reach it
        assert all(count > 0 for count in reached)
        time.sleep(0.05)
        assert cells.tolist() == reached  # at rest
        state = workers.state_dict()["workers"]
        assert [s["pieces"] for s in state] == reached
        assert len({s["pid"] for s in state} | {os.getpid()}) == 4
        assert {s["threads"] for s in state} == {1}
        assert sorted(heard) == sorted(
            (i, p) for i, count in enumerate(reached) for p in range(5, count + 1, 5)
        )
        assert in_dev_shm() == before
        children = [psutil.Process(pid) for pid in workers.pids]
    assert not any(child.is_running() for child in children)


def test_time_and_interruption_bring_them_to_rest():
    cells, workers = counters(2)
    with workers:
        began = time.monotonic()
        workers.run(10**9, 0.2, lambda: False)
        assert 0.15 < time.monotonic() - began < 5
        first = int(cells.sum())
        workers.run(10**9, 60, lambda: True)
        assert time.monotonic() - began < 10
        assert int(cells.sum()) >= first > 0


def test_state_goes_back_to_the_worker_it_came_from():
    _, workers = counters(2)
    with workers:
        workers.load_state_dict({"workers": [{"pieces": 7}, {"pieces": 40}]})
        assert [s["pieces"] for s in workers.state_dict()["workers"]] == [7, 40]
        with pytest.raises(ValueError, match="holds 1 workers, this run has 2"):
            workers.load_state_dict({"workers": [{"pieces": 7}]})


def test_a_failing_worker_is_reported_with_its_traceback():
    cells, workers = counters(2)
    cells[1] = -(10**6)
    with workers, pytest.raises(UserError, match=r"worker 1 \(process \d+\) failed") as caught:
        workers.run(10**9, 60, lambda: False)
    assert "RuntimeError: a cell below zero" in str(caught.value)
    assert "in work" in str(caught.value)
    assert all(not psutil.pid_exists(pid) for pid in workers.pids)


def test_a_worker_that_cannot_start_is_reported():
    def make(index: int):
        raise ValueError(f"no game for worker {index}")

    with pytest.raises(UserError, match="ValueError: no game for worker"):
        Workers(2, make)


@pytest.mark.parametrize("busy", [True, False])
def test_a_killed_worker_is_reported_and_the_others_are_ended(busy):
    _, workers = counters(3)
    with workers:
        os.kill(workers.pids[2], signal.SIGKILL)
        with pytest.raises(UserError, match=r"worker 2 \(process \d+\) was killed by SIGKILL"):
            workers.run(10**9, 60, lambda: False) if busy else workers.state_dict()
    assert all(not psutil.pid_exists(pid) for pid in workers.pids)


def test_signals_of_a_terminal_are_the_parents_business():
    cells, workers = counters(1)
    with workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(workers.pids[0], number)
        workers.run(20, 30, lambda: False)
        assert int(cells.sum()) == 20


ORPHANS = """
import sys, time
from common.learning import workers
from tests.common.learning.test_workers import Counter, counters
if sys.argv[1] == "portable":
    workers.PR_SET_PDEATHSIG = None
if sys.argv[2] == "stuck":
    Counter.work = lambda self: time.sleep(600)
cells, group = counters(3)
print(*group.pids, flush=True)
if sys.argv[2] == "resting":
    group.run(30, 30, lambda: False)
    print("rest", flush=True)
    sys.stdin.read()
group.run(10**12, 600, lambda: bool(print("busy", flush=True)))
"""


@pytest.mark.parametrize(
    ("how", "doing"), [("kernel", "stuck"), ("portable", "busy"), ("portable", "resting")]
)
def test_no_worker_outlives_a_killed_parent(how, doing):
    """By the kernel even one that never comes back from its work; elsewhere one that works, or waits for its parent's word."""
    if how == "kernel" and module.PR_SET_PDEATHSIG is None:
        pytest.skip("only Linux ends a process with its parent")
    before = in_dev_shm()
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, how, doing], cwd=ROOT, env=environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    parent.stdout.readline()
    assert all(psutil.pid_exists(pid) for pid in pids)
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not any(alive(pid) for pid in pids), 10)
    assert in_dev_shm() == before
    parent.stdout.close()
    parent.stdin.close()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_shared_parameters_are_the_module_and_one_vector():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 2), torch.nn.Flatten(), torch.nn.LSTM(12, 5), torch.nn.Linear(5, 2)
    )
    net.to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weights = share_parameters(net)
    assert len(weights) == sum(p.numel() for p in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    pid = os.fork()
    if pid == 0:
        weights.fill_(3.0)
        os._exit(0)
    os.waitpid(pid, 0)
    assert all((tensor == 3).all() for tensor in net.state_dict().values())
