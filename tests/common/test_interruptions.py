"""What a killed or stopped workflow leaves behind, without Snakemake: its lock and its trainings."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import interruptions

ROOT = Path(__file__).resolve().parents[2]


def workflow(code: str, **pipes) -> subprocess.Popen:
    """A process of its own, as a workflow is."""
    code = f"from pathlib import Path\nfrom common.interruptions import *\n{code}"
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    } | pipes
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)


def lock(state: Path) -> Path:
    (state / "locks").mkdir(parents=True)
    (state / "locks" / "0.output.lock").touch()
    return state / "locks"


@pytest.fixture
def unheld(monkeypatch):
    held: list = []
    monkeypatch.setattr(interruptions, "_held", held)
    yield
    for file in held:
        file.close()


def test_only_the_lock_of_a_dead_workflow_is_removed(tmp_path, unheld, capsys):
    state = tmp_path / ".snakemake"
    with workflow(f"hold(Path({str(state)!r})); print('holds', flush=True); input()") as other:
        assert other.stdout.readline() == "holds\n"
        locks = lock(state)
        assert not interruptions.hold(state)  # it is alive
        assert locks.exists()
        other.kill()
    assert not interruptions.hold(state)  # this process is alive too
    while interruptions._held:
        interruptions._held.pop().close()
    assert interruptions.hold(state)
    assert not locks.exists()
    assert "its lock; it is removed" in capsys.readouterr().err


@pytest.mark.parametrize("mark", ["", "another-machine 01234567-89ab"])
def test_a_lock_of_nobody_knows_where_stays_however_often_it_is_tried(tmp_path, unheld, mark):
    locks = lock(tmp_path)
    (tmp_path / "in-use").write_text(mark)
    for _ in range(2):
        assert not interruptions.hold(tmp_path)
        assert locks.exists()


def test_a_container_of_another_name_and_a_machine_after_a_power_cut_are_this_machine(
    tmp_path, unheld, monkeypatch
):
    for before, now in (
        ("kernel-1 name-1", {"kernel-1", "name-2"}),
        ("kernel-1 name-1", {"kernel-2", "name-1"}),
    ):
        lock(tmp_path)
        (tmp_path / "in-use").write_text(before)
        monkeypatch.setattr(interruptions, "machine", lambda now=now: now)
        assert interruptions.hold(tmp_path)
        interruptions._held.pop().close()


def test_a_folder_that_cannot_be_written_is_left_to_snakemake(tmp_path, unheld):
    (tmp_path / "file").touch()
    assert not interruptions.hold(tmp_path / "file" / ".snakemake")


SHELL = "trap : HUP TERM; sh -c 'trap \"echo saved; exit 75\" TERM; echo begun; while :; do sleep 0.1; done' | (trap '' HUP INT TERM; cat)"
WAITING = f"""
import subprocess, time
shell = subprocess.Popen(["bash", "-c", {SHELL!r}])
pass_on_signals(every=0.05)
try:
    print("waits", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", shell.wait(10), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_trainings_and_then_the_workflow(number):
    with workflow(WAITING) as process:
        assert {process.stdout.readline(), process.stdout.readline()} == {"begun\n", "waits\n"}
        process.send_signal(number)
        said, errors = process.communicate(timeout=30)
    assert "saved\n" in said
    assert "interrupted" in said
    assert f"{number.name}: the trainings save and stop" in errors


def test_a_signal_that_is_ignored_stays_ignored():
    """nohup, and the reason that a workflow in the background of a script hears no Ctrl-C."""
    code = "import os; pass_on_signals(); os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    assert workflow(code, **ignore).communicate(timeout=30)[0] == "goes on\n"
