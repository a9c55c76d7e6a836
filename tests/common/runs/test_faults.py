"""Whatever happens to the disk, the clock or the folder: the run ends right or with one clear line, and nothing good is lost.

The real script and the real plumbing, with a replay memory on the disk; but a small environment and a small network, so that
a disk can fill up at each of the hundred-odd writes of a training in turn.
"""

from __future__ import annotations

import argparse
import builtins
import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import threading
import types
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from common import papers
from common.environments.vector import GymEnvs
from common.errors import run_main
from common.evaluation import protocol
from common.evaluation.protocol import evaluate_run
from common.learning.layers import MLP
from common.runs import command_line, provenance
from common.runs import run as runs
from common.runs.checkpoint import Checkpoints
from common.runs.evaluate import main as evaluation_main
from common.runs.folder import OUTPUTS
from replications.dqn import train as script
from tests.training import TINY, command, start, train, wait_for

SHELL_LIVES = "the shell lives"
PROMISED = ("model.safetensors", "curve.csv", "episodes.csv")
# A ring that wraps, six checkpoints of which two are kept, two evaluation phases, games that end
SMALL = {
    "training_steps": 60, "replay_capacity": 20, "replay_start": 15, "final_exploration_step": 30, "target_period": 20,
    "evaluation_period": 30, "evaluation_steps": 20, "held_out_states": 5, "batch_size": 4, "stack": 2,
}  # fmt: skip
SLACK = 40  # slots beyond the capacity, and so a checkpoint every 10
RESOLVED = papers.resolve("dqn", None, "breakout", "smoke", SMALL)


class Screens(GymEnvs):
    """CartPole whose four numbers are a row of four pixels: 8-bit observations, so that the replay memory is a file."""

    def __init__(self, num_envs: int, seed: int):
        super().__init__("CartPole-v1", num_envs, seed)
        self.obs_dtype = np.dtype(np.uint8)

    def _reset(self, mask, seeds):
        return self._pixels(super()._reset(mask, seeds))

    def _recv(self):
        obs, *rest = super()._recv()
        return self._pixels(obs), *rest

    @staticmethod
    def _pixels(obs):
        return (obs * 40 + 128).clip(0, 255).astype(np.uint8)


class Network(MLP):
    def forward(self, states):
        return super().forward(states.float() / 255)


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    """wandb writes in threads of its own, and what befalls it is tested in test_tracking."""
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def small(monkeypatch):
    """The small environment and network, in place of the emulator."""

    def make_envs(config, task, num_envs, seed, **_):
        return Screens(num_envs, seed)

    def make_network(config, envs):
        return Network(envs.num_actions, config.stack * int(np.prod(envs.obs_shape)))

    def frame_storage(run, envs, capacity):
        return real(run, envs, capacity) | {"slack": SLACK}

    real = runs.Run.frame_storage
    for module in (script, protocol):
        monkeypatch.setattr(module, "make_envs", make_envs)
    monkeypatch.setattr(script, "make_network", make_network)
    # slow, and files may be edited meanwhile
    monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: "f" * 64)
    monkeypatch.setattr(provenance, "_git", lambda *_: None)
    monkeypatch.setattr(runs.Run, "frame_storage", frame_storage)
    monkeypatch.setattr(runs, "LINE_EVERY", 0)  # a line, and with it the status file, at each step


@dataclass
class Outcome:
    """What a start of the command came to: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    def one_clear_line(self) -> str:
        assert self.code == 2, self
        assert "Traceback" not in self.out + self.err, self
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self
        assert lines[0].startswith("error: "), self
        return lines[0]


def begin(
    results: Path, capsys, monkeypatch, *, fresh: bool = False, settings: dict | None = None
) -> Outcome:
    """What the command line does, in this process. Any other exception than its own exit fails the test."""
    resolved = dataclasses.replace(RESOLVED, settings=RESOLVED.settings | (settings or {}))
    known = argparse.Namespace(
        seed=1, threads=1, nondeterministic=False, device="cpu", results=results, stop_when_reached=False,
        resume_changed=False, fresh=fresh,
    )  # fmt: skip
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(command_line, "parse", lambda *_: (known, resolved))
        try:
            command_line.main("dqn", script.Config, script.train)
            code = 0
        except SystemExit as leaving:
            code = leaving.code
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)


def of(results: Path) -> Path:
    return results / "dqn" / "breakout" / "smoke" / "seed1"


def assert_same(results: Path, unbroken: Path) -> None:
    for name in PROMISED:
        assert (of(results) / name).read_bytes() == (of(unbroken) / name).read_bytes(), name
    one, two = (json.loads((of(f) / "run.json").read_text()) for f in (results, unbroken))
    for key in (
        "progress",
        "result",
        "settings",
        "settings_key",
    ):  # `result` has the checksum of the replay memory
        assert one[key] == two[key], key


def whole_checkpoints(results: Path) -> list[int]:
    """Agent steps of the checkpoints that can be read, put aside or not."""
    found = []
    for manifest in of(results).rglob("step-*/manifest.json"):
        try:
            key = json.loads(manifest.read_text())["key"]
            Checkpoints(manifest.parent.parent, key)._read(manifest.parent)
            found.append(int(manifest.parent.name[5:]))
        except (OSError, ValueError, KeyError):
            continue
    return sorted(found)


# --- the disk is full ---


@dataclass
class Disk:
    """A disk below `root` that is full at operation number `full_at`, or from then on. Without one it only counts.

    Operations: making a file or folder, opening a file for writing, writing, flushing, reserving space, renaming, fsync.
    """

    root: Path
    full_at: int | None = None
    from_then_on: bool = False
    code: int = errno.ENOSPC
    log: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def touch(self, what: str, path) -> None:
        name = os.path.abspath(os.fspath(path))
        if not name.startswith(str(self.root)):
            return
        with self.lock:
            number = len(self.log)
            folder, file = os.path.split(os.path.relpath(name, of(self.root)))
            folder = re.sub(
                "[0-9]+", "N", folder
            )  # what is alike: any file of a checkpoint, of `done`, of the outputs
            file = file if folder == "checkpoint" else "." + file.rsplit(".", 1)[-1]
            self.log.append(f"{what} {folder}/{re.sub('[0-9]+', 'N', file)}")
            if (
                self.full_at is None
                or number < self.full_at
                or (number > self.full_at and not self.from_then_on)
            ):
                return
            self.failed.append(self.log[-1])
        if what in ("write", "flush", "fsync", "reserve"):  # these do not know the file's name
            raise OSError(self.code, os.strerror(self.code))
        raise OSError(self.code, os.strerror(self.code), name)

    def install(self, patch) -> None:
        for name in ("mkdir", "replace", "rename"):
            self._wrap(patch, name)
        real_open, real_fsync, real_reserve = io.open, os.fsync, os.posix_fallocate

        def opened(file, mode="r", *arguments, **options):
            if isinstance(file, int) or not set(mode) & set("wax+"):
                return real_open(file, mode, *arguments, **options)
            self.touch("open", file)
            return File(real_open(file, mode, *arguments, **options), self, file)

        def synced(descriptor):
            self.touch("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            return real_fsync(descriptor)

        def reserved(descriptor, *arguments):
            self.touch("reserve", os.readlink(f"/proc/self/fd/{descriptor}"))
            return real_reserve(descriptor, *arguments)

        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "posix_fallocate", reserved)

    def _wrap(self, patch, name: str) -> None:
        real = getattr(os, name)

        def wrapped(path, *arguments, **options):
            self.touch(name, path)
            return real(path, *arguments, **options)

        patch.setattr(os, name, wrapped)


class File:
    """A file open for writing. As with a real one, what could not be flushed fails once more when it is closed."""

    def __init__(self, file, disk: Disk, path):
        self._file, self._disk, self._path, self._failure = file, disk, path, None

    def __getattr__(self, name):
        return getattr(self._file, name)

    def _attempt(self, what: str, *arguments):
        try:
            self._disk.touch(what, self._path)
        except OSError as failure:
            self._failure = failure
            raise
        return getattr(self._file, what)(*arguments)

    def write(self, data):
        return self._attempt("write", data)

    def flush(self):
        return self._attempt("flush")

    def close(self):
        self._file.close()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """An unbroken run of SMALL, and one that a crash ended after its third checkpoint."""
    return tmp_path_factory.mktemp("unbroken")


@pytest.fixture
def whole(unbroken, small, capsys, monkeypatch) -> Path:
    if not (of(unbroken) / "run.json").exists():
        outcome = begin(unbroken, capsys, monkeypatch)
        assert outcome.code == 0, outcome
        run = json.loads((of(unbroken) / "run.json").read_text())
        assert run["cost"]["checkpoints"] == 6
        assert run["result"]["counts"]["evaluations"] == 2
        assert run["progress"]["episodes"] >= 2
        assert run["result"]["counts"]["ring_wraps"] == 1
    return unbroken


def crash(results: Path, capsys, monkeypatch, at_step: int = 57) -> None:
    """Leaves behind what a process that was killed at that step does."""

    class Killed(BaseException):
        pass

    real = runs.Run.tick

    def tick(self, progress):
        real(self, progress)
        if progress.agent_steps >= at_step:
            self.checkpoints.wait()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "tick", tick)
        with pytest.raises(Killed):
            begin(results, capsys, monkeypatch)
    assert len(whole_checkpoints(results)) == 2


@pytest.fixture
def prepare(whole, capsys, monkeypatch):
    """Makes a results folder as it is before a start: of one who begins, resumes, has finished, or starts over."""
    made: dict[str, Path] = {}

    def make(case: str, folder: Path) -> Path:
        if case not in made:
            made[case] = folder.with_name(f"{folder.name}-{case}")
            made[case].mkdir()
            if case in ("resume", "fresh", "changed"):
                crash(made[case], capsys, monkeypatch)
            elif case == "finished":
                shutil.copytree(whole, made[case], dirs_exist_ok=True, ignore=shutil.ignore_patterns("wandb"))
                for name in OUTPUTS:
                    (of(made[case]) / name).unlink()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made[case], folder, symlinks=True)
        return folder

    return make


CASES = ("begin", "resume", "finished", "fresh", "changed")


def fill_the_disk(case, from_then_on, which, tmp_path, whole, prepare, capsys, monkeypatch) -> dict[str, int]:
    """Fails operation k for each k (`which`: only the "first" or "last" of each kind); returns how many of each kind failed."""
    results = tmp_path / "results"
    options = {"fresh": case == "fresh"}
    if case == "changed":  # other code than that of the run found there: it is put aside
        monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: "0" * 64)

    def attempt(disk: Disk) -> Outcome:
        with monkeypatch.context() as patch:
            disk.install(patch)
            return begin(results, capsys, monkeypatch, **options)

    prepare(case, results)
    frames = tmp_path / "frames"
    if case in ("fresh", "changed"):
        shutil.copy(of(results) / "checkpoint" / "frames.bin", frames)
    counting = Disk(results)
    assert attempt(counting).code == 0
    assert_same(results, whole)
    places = range(len(counting.log))
    if which != "each":
        numbered = list(enumerate(counting.log))
        places = sorted(
            {what: k for k, what in (numbered if which == "last" else reversed(numbered))}.values()
        )
    kinds: dict[str, int] = {}
    for k in places:
        prepare(case, results)
        before = whole_checkpoints(results)
        disk = Disk(results, k, from_then_on)
        outcome = attempt(disk)
        where = f"full at operation {k}, {disk.failed[:1]}: {outcome}"
        for what in disk.failed[:1]:
            kinds[what] = kinds.get(what, 0) + 1
        assert "Traceback" not in outcome.out + outcome.err, where
        finished = (of(results) / "run.json").exists()
        if outcome.code == 0:
            assert finished, where
        else:
            line = outcome.one_clear_line()
            assert str(tmp_path) in line, where
            assert "No space left" in line or "free" in line, where
            after = whole_checkpoints(results)
            if (
                before and not finished
            ):  # nothing that was good is gone, unless something newer and whole is there
                done = (of(results) / "checkpoint" / "done" / "done.json").exists()
                assert done or (after and max(after) >= max(before)), where
        if finished:
            assert_same(results, whole)
        again = begin(results, capsys, monkeypatch)  # the disk has room again
        assert again.code == 0, f"{where}\nthen: {again}"
        assert_same(results, whole)
        for aside in {
            step.parent for step in of(results).rglob("stale-*/step-*")
        }:  # put aside together, as they were
            assert (aside / "frames.bin").read_bytes() == frames.read_bytes(), where
            assert len(list(aside.glob("step-*"))) == 2, where
    return kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "which"), [("begin", "last"), ("resume", "first"), ("finished", "first"), ("fresh", "first")]
)
def test_a_disk_that_is_full_from_some_write_on(case, which, tmp_path, whole, prepare, capsys, monkeypatch):
    """Of each kind one; `-m long` tries every single one, for a moment and for good."""
    kinds = fill_the_disk(case, True, which, tmp_path, whole, prepare, capsys, monkeypatch)
    print(f"{case}: full at {sum(kinds.values())} operations")
    assert len(kinds) >= {"begin": 20, "resume": 15, "finished": 5, "fresh": 20}[case], kinds


@pytest.mark.long
@pytest.mark.parametrize("from_then_on", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_disk_that_is_full_at_any_write(case, from_then_on, tmp_path, whole, prepare, capsys, monkeypatch):
    kinds = fill_the_disk(case, from_then_on, "each", tmp_path, whole, prepare, capsys, monkeypatch)
    print(f"{case}: full at {sum(kinds.values())} operations of {len(kinds)} kinds")


# --- files are damaged, missing, old, or somebody else's ---


@pytest.fixture
def crashed(prepare, tmp_path) -> Path:
    """A results folder with a run that was killed; checkpoints of agent steps 45 and 55 or so."""
    return prepare("resume", tmp_path / "results")


def checkpoints(results: Path) -> list[Path]:
    return sorted((of(results) / "checkpoint").glob("step-*"), reverse=True)


def truncate(content: bytes, rng) -> bytes:
    return content[: int(rng.integers(len(content)))]


def flip(content: bytes, rng) -> bytes:
    at = int(rng.integers(len(content)))
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage", [truncate, flip, lambda content, rng: b""], ids=["truncated", "flipped", "emptied"]
)
def test_any_damaged_file_of_a_checkpoint_is_noticed(damage, crashed, whole, prepare, capsys, monkeypatch):
    """In turn each file of the newest, at places drawn anew: the one before it takes over. Of both: one clear line."""
    rng = np.random.default_rng(7)
    names = sorted(p.name for p in checkpoints(crashed)[0].iterdir())
    assert len(names) == 7, names  # three logs and the clock, state in two files, manifest
    for name in names:
        prepare("resume", crashed)
        newest, older = checkpoints(crashed)
        (newest / name).write_bytes(damage((newest / name).read_bytes(), rng))
        outcome = begin(crashed, capsys, monkeypatch)
        assert outcome.code == 0, (name, outcome)
        assert f"{newest.name} is damaged" in outcome.out, (name, outcome)
        assert f"resumed at agent step {int(older.name[5:])}" in outcome.out, (name, outcome)
        assert_same(crashed, whole)
    prepare("resume", crashed)
    for folder in checkpoints(crashed):
        content = (folder / "state.safetensors").read_bytes()
        (folder / "state.safetensors").write_bytes(damage(content, rng))
    before = {p: p.read_bytes() for folder in checkpoints(crashed) for p in folder.iterdir()}
    line = begin(crashed, capsys, monkeypatch).one_clear_line()
    assert "--fresh" in line
    assert {p: p.read_bytes() for folder in checkpoints(crashed) for p in folder.iterdir()} == before
    assert begin(crashed, capsys, monkeypatch, fresh=True).code == 0
    assert_same(crashed, whole)


@pytest.mark.parametrize("damage", ["flipped", "older", "zeros"])
def test_frames_that_are_not_those_of_the_checkpoint_are_noticed(damage, crashed, whole, capsys, monkeypatch):
    """The frames lie beside the checkpoints: a folder copied while a training went on can hold older ones."""
    frames = of(crashed) / "checkpoint" / "frames.bin"
    content = bytearray(frames.read_bytes())
    size = len(content) // 60  # 60 slots
    written = int(Checkpoints(frames.parent, key_of(crashed)).load()[0]["replay"]["written"][0])
    place = (written - 5) % 60 * size
    if damage == "flipped":
        content[place] ^= 4
    else:
        content[place : place + size] = bytes(size) if damage == "zeros" else content[place - size : place]
    frames.write_bytes(content)
    line = begin(crashed, capsys, monkeypatch).one_clear_line()
    assert str(frames) in line
    assert "1 of 20 frames differ" in line
    assert "--fresh" in line
    assert frames.read_bytes() == content
    assert len(whole_checkpoints(crashed)) == 2
    assert begin(crashed, capsys, monkeypatch, fresh=True).code == 0
    assert_same(crashed, whole)


def test_frames_that_no_checkpoint_refers_to_may_be_anything(crashed, whole, capsys, monkeypatch):
    """What was written after the checkpoint, when the process was killed or the power went."""
    frames = of(crashed) / "checkpoint" / "frames.bin"
    content = bytearray(frames.read_bytes())
    size = len(content) // 60
    written = int(Checkpoints(frames.parent, key_of(crashed)).load()[0]["replay"]["written"][0])
    for slot in range(written, written + 60 - 20):
        content[slot % 60 * size : (slot % 60 + 1) * size] = b"\xaa" * size
    frames.write_bytes(content)
    assert begin(crashed, capsys, monkeypatch).code == 0
    assert_same(crashed, whole)


def key_of(results: Path) -> str:
    return json.loads((checkpoints(results)[0] / "manifest.json").read_text())["key"]


@pytest.mark.parametrize(
    "name", ["status.json", ".lock", "live/curve.csv", "live/episodes.csv", "frames.new", ".aside"]
)
def test_what_only_informs_may_be_anything(name, crashed, whole, capsys, monkeypatch):
    (of(crashed) / "checkpoint" / name).write_bytes(b"\xff{\x00" * 100)
    assert begin(crashed, capsys, monkeypatch).code == 0
    assert_same(crashed, whole)


def remove_a_file(done: Path) -> None:
    (done / "curve.csv").unlink()


def name_fewer(done: Path) -> None:
    content = json.loads((done / "done.json").read_text())
    del content["sha256"]["model.safetensors"]
    (done / "done.json").write_text(json.dumps(content))


def name_another(done: Path) -> None:
    content = json.loads((done / "done.json").read_text())
    content["sha256"]["../../../../secret"] = "0" * 64
    (done / "done.json").write_text(json.dumps(content))


def change_weights(done: Path) -> None:
    (done / "model.safetensors").write_bytes(b"\0" * 100)


def nest(done: Path) -> None:
    (done / "done.json").write_text("[" * 100_000)


@pytest.mark.parametrize("damage", [remove_a_file, name_fewer, name_another, change_weights, nest])
def test_a_damaged_copy_of_the_results_is_trained_again(damage, whole, tmp_path, capsys, monkeypatch):
    results = shutil.copytree(whole, tmp_path / "results", symlinks=True)
    damage(of(results) / "checkpoint" / "done")
    outcome = begin(results, capsys, monkeypatch)
    assert outcome.code == 0, outcome
    assert "is damaged" in outcome.out
    assert_same(results, whole)
    assert begin(results, capsys, monkeypatch).out.startswith("finished already")


def test_killed_while_an_earlier_run_is_put_aside(crashed, whole, capsys, monkeypatch):
    """At each of its renames: the next start goes on with it, and frames and checkpoints end in one folder."""

    class Killed(BaseException):
        pass

    kept = {p.name: p.read_bytes() for p in (of(crashed) / "checkpoint").iterdir() if p.name == "frames.bin"}
    for number in range(6):
        results = shutil.copytree(crashed, crashed.with_name(f"results-{number}"), symlinks=True)
        real, calls = Path.rename, iter(range(100))

        def rename(self, target, real=real, calls=calls, number=number):
            if next(calls) == number:
                raise Killed
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            with pytest.raises(Killed):
                begin(results, capsys, monkeypatch, fresh=True)
        assert begin(results, capsys, monkeypatch).code == 0
        assert_same(results, whole)
        aside = of(results) / "checkpoint" / "stale-1"
        assert (aside / "frames.bin").read_bytes() == kept["frames.bin"]
        assert len(list(aside.glob("step-*"))) == 2
        assert not (of(results) / "checkpoint" / "stale-2").exists()


def test_a_checkpoint_that_does_not_fit_the_script_is_one_clear_line(crashed, capsys, monkeypatch):
    """As after `--resume-changed` with code that keeps other things."""
    for folder in checkpoints(crashed):
        state = json.loads((folder / "state.json").read_text())
        del state["loss_sum"]
        content = json.dumps(state).encode()
        (folder / "state.json").write_bytes(content)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["sha256"]["state.json"] = hashlib.sha256(content).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
    line = begin(crashed, capsys, monkeypatch).one_clear_line()
    assert "loss_sum" in line
    assert "--fresh" in line
    assert len(whole_checkpoints(crashed)) == 2


# --- the clock ---


def test_a_clock_that_jumps_changes_nothing(tmp_path, whole, capsys, monkeypatch):
    """Hours forth and back at every look; files from the future; killed and resumed."""
    rng = np.random.default_rng(3)
    jumping = types.SimpleNamespace(monotonic=lambda: 1e6 + float(rng.uniform(-1e5, 1e5)), time=lambda: 0.0)
    monkeypatch.setattr(runs, "time", jumping)
    monkeypatch.setattr(runs, "now", lambda: "1970-01-01T00:00:00+00:00")
    results = tmp_path / "results"
    results.mkdir()
    crash(results, capsys, monkeypatch)
    for path in results.rglob("*"):
        os.utime(path, (4e9, 4e9), follow_symlinks=False)
    assert begin(results, capsys, monkeypatch).code == 0
    assert_same(results, whole)


def test_a_run_resumed_at_a_long_evaluation_phase_goes_on(crashed, whole, capsys, monkeypatch):
    """The first line comes after the phase, when this attempt has made no agent step yet: no division by its speed."""
    clock = iter(range(0, 10**9, 20))
    monkeypatch.setattr(runs, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    long = {"training_steps": 50_000_000}

    class Killed(BaseException):
        pass

    real = runs.Run.evaluate

    def evaluate(self, policy, progress):
        if not self.parts["progress"].evaluations and not resumed:
            self.save()
            self.checkpoints.wait()
            raise Killed
        if progress.evaluations:
            raise Killed
        return real(self, policy, progress)

    results, resumed = crashed.with_name("long"), False
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "evaluate", evaluate)
        patch.setattr(command_line, "say_how_long", lambda run: None)
        with pytest.raises(Killed):
            begin(results, capsys, monkeypatch, settings=long)
        resumed = True
        with pytest.raises(Killed):  # at the second phase
            begin(results, capsys, monkeypatch, settings=long)


# --- the folder ---


def test_results_copied_to_another_machine_and_place(crashed, whole, tmp_path, capsys, monkeypatch):
    """With links that lead nowhere, as wandb leaves them; the note says that the machine changed."""
    (of(crashed) / "wandb").mkdir(exist_ok=True)
    (of(crashed) / "wandb" / "link").symlink_to("/nowhere/run-1")
    elsewhere = shutil.copytree(crashed, tmp_path / "far" / "away", symlinks=True)
    shutil.rmtree(crashed)
    monkeypatch.setattr(provenance, "cpu_name", lambda: "Another CPU")
    outcome = begin(elsewhere, capsys, monkeypatch)
    assert outcome.code == 0, outcome
    assert "resumed at agent step" in outcome.out
    run = json.loads((of(elsewhere) / "run.json").read_text())
    assert any("resumed on cpu, 1 threads, Another CPU" in note for note in run["provenance"]["notes"])
    assert_same(elsewhere, whole)


@pytest.mark.parametrize("outputs", ["kept", "lost"])
def test_results_moved_when_finished(outputs, whole, tmp_path, capsys, monkeypatch):
    results = shutil.copytree(whole, tmp_path / "results", symlinks=True)
    if outputs == "lost":
        for name in OUTPUTS:
            (of(results) / name).unlink()
    moved = Path(shutil.move(results, tmp_path / "moved"))
    outcome = begin(moved, capsys, monkeypatch)
    assert outcome.code == 0
    assert outcome.out.startswith("finished already")
    assert_same(moved, whole)


@pytest.mark.parametrize("case", ["begin", "resume", "finished"])
def test_a_folder_of_somebody_else_is_one_clear_line(
    case, prepare, whole, capsys, monkeypatch, tmp_path_factory
):
    """Refused by the system itself: as root, by becoming nobody for a moment."""
    results = prepare(case, tmp_path_factory.mktemp("theirs") / "results")
    folders = [results, *(p for p in results.rglob("*") if p.is_dir())]
    before = {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}
    for path in before:
        path.chmod(0o444)
    for folder in folders:
        folder.chmod(0o555)
    above = [
        p
        for p in results.parents
        if p.stat().st_uid == os.getuid() and p.name.startswith(("pytest-", "popen-", "theirs"))
    ]
    for folder in above:
        folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        outcome = begin(results, capsys, monkeypatch)
    finally:
        if root:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o755)
    line = outcome.one_clear_line()
    assert "Permission denied" in line
    assert "--results" in line
    assert {p: p.read_bytes() for p in results.rglob("*") if p.is_file()} == before
    assert begin(results, capsys, monkeypatch).code == 0 or not root
    assert not root or assert_same(results, whole) is None


@pytest.mark.slow
def test_an_orphan_and_a_second_training_on_one_folder(tmp_path):
    """The real script on the real game, started as the workflow does. What started it is killed alone; the trainer lives on
    and owns the folder. The second one waits, and finds the run finished."""
    short = TINY | {"training_steps": 200, "evaluation_period": 100, "evaluation_steps": 20}
    whole = train("dqn", "breakout", tmp_path / "whole", short)
    arguments = command("dqn", "breakout", tmp_path / "both", short)
    logs = [tmp_path / "one", tmp_path / "two"]
    shell = f"{shlex.join(arguments)} 2>&1 | tee -i {logs[0]}; echo {SHELL_LIVES}"
    workflow = start(["bash", "-c", shell], tmp_path / "shell")
    assert wait_for(lambda: logs[0].exists() and "agent steps" in logs[0].read_text(), 120)
    workflow.kill()
    workflow.wait()
    orphan = int((of(tmp_path / "both") / "checkpoint" / ".lock").read_text())
    os.kill(orphan, signal.SIGSTOP)  # or it may be done before the second one is there
    second = start(arguments, logs[1])
    assert wait_for(lambda: f"in use by process {orphan}; waiting" in logs[1].read_text(), 120)
    os.kill(orphan, signal.SIGCONT)
    assert second.wait(240) == 0
    assert SHELL_LIVES not in (tmp_path / "shell").read_text()
    assert wait_for(lambda: "done:" in logs[0].read_text(), 10)
    assert "waiting until it ends" in logs[1].read_text()
    assert "finished already" in logs[1].read_text()
    for name in PROMISED:
        assert (of(tmp_path / "both") / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_final_evaluation_of_a_resumed_run_is_that_of_the_unbroken_one(
    crashed, whole, tmp_path, capsys, monkeypatch
):
    assert begin(crashed, capsys, monkeypatch).code == 0
    unbroken = of(shutil.copytree(whole, tmp_path / "whole", symlinks=True))
    for folder in (of(crashed), unbroken):
        evaluate_run(folder, "cpu")
    assert (of(crashed) / "evaluation.json").read_bytes() == (unbroken / "evaluation.json").read_bytes()


@pytest.mark.parametrize("name", ["evaluation.json", "episode.mp4"])
def test_a_disk_that_is_full_when_a_run_is_evaluated(name, whole, tmp_path, capsys, monkeypatch):
    """One clear line; weights and logs stay, and the evaluation before it is not half overwritten."""
    folder = of(shutil.copytree(whole, tmp_path / "whole", symlinks=True))
    evaluate_run(folder, "cpu")
    # all but the video, which is made anew before the disk is full
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.suffix != ".mp4"}
    monkeypatch.setattr("sys.argv", ["evaluation", str(folder), "--device", "cpu"])
    real = os.replace

    def replace(source, target):
        if str(target).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(SystemExit) as leaving:
            run_main(evaluation_main)
    captured = capsys.readouterr()
    Outcome(leaving.value.code, captured.out, captured.err).one_clear_line()
    assert {p: p.read_bytes() for p in before} == before
