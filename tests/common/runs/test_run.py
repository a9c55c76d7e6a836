"""A run that cannot be lost: killed, stopped, torn, changed, started twice."""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import fcntl
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from common import papers
from common.errors import UserError
from common.evaluation.protocol import evaluate_run
from common.runs import command_line, provenance
from common.runs import run as runs
from common.runs.checkpoint import Checkpoints
from common.runs.description import CHECKPOINT_GB
from common.runs.folder import OUTPUTS
from common.runs.progress import Progress
from replications.dqn import train as dqn
from tests.training import TINY, command, crashing, environment, open_run, start, train, wait_for

PROMISED = ("model.safetensors", "curve.csv", "episodes.csv")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    return train("dqn", "breakout", tmp_path_factory.mktemp("unbroken"))


def rows(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open()))


def assert_same(folder: Path, unbroken: Path) -> None:
    for name in PROMISED:
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    one, two = (json.loads((f / "run.json").read_text()) for f in (folder, unbroken))
    for key in (
        "progress",
        "result",
        "settings",
        "settings_key",
    ):  # `result` has the checksum of the replay memory
        assert one[key] == two[key], key


def test_a_tiny_run_reaches_every_branch(unbroken):
    run = json.loads((unbroken / "run.json").read_text())
    counts = run["result"]["counts"]
    assert run["progress"]["agent_steps"] == 600
    assert run["progress"]["frames"] == 2400
    assert run["progress"]["updates"] == 125  # (600 - 100) / 4
    assert run["progress"]["episodes"] >= 1
    assert counts["target_copies"] == 3  # at 200, 400 and 600
    assert counts["ring_wraps"] == 1  # 450 slots
    assert counts["evaluations"] == 2
    curve = rows(unbroken / "curve.csv")
    assert [int(r["agent_steps"]) for r in curve] == [300, 600]
    assert float(curve[0]["epsilon"]) == pytest.approx(1 - 0.9 * 200 / 300)
    assert float(curve[1]["epsilon"]) == pytest.approx(0.1)
    assert all(float(r["loss"]) > 0 for r in curve)
    assert float(curve[0]["mean_max_q"]) != float(curve[1]["mean_max_q"])
    assert not list((unbroken / "checkpoint").glob("step-*"))
    assert not (unbroken / "checkpoint" / "frames.bin").exists()


@pytest.mark.slow
def test_another_seed_is_another_run(unbroken, tmp_path):
    other = train("dqn", "breakout", tmp_path, seed=2)
    assert (other / "model.safetensors").read_bytes() != (unbroken / "model.safetensors").read_bytes()


def kill_and_resume(tmp_path: Path, unbroken: Path, kills: int, seed: int) -> None:
    """SIGKILL at random moments, whatever is going on then; a run that came to its end is compared, and another begins."""
    rng, killed = random.Random(seed), 0
    arguments, log = command("dqn", "breakout", tmp_path), tmp_path / "log"
    folder = tmp_path / "dqn" / "breakout" / "smoke" / "seed1"
    while killed < kills:
        process = start(arguments, log)
        began = log.stat().st_size
        assert wait_for(
            lambda p=process, b=began: p.poll() is not None or b"agent step" in log.read_bytes()[b:], 60
        )
        try:
            process.wait(rng.uniform(0, 3))
        except subprocess.TimeoutExpired:
            process.kill()
        if process.wait() == -signal.SIGKILL:
            killed += 1
        else:
            assert process.returncode == 0, log.read_text()
            assert_same(folder, unbroken)
            shutil.rmtree(folder)
    assert start(arguments, log).wait(120) == 0, log.read_text()
    assert_same(folder, unbroken)
    print(f"killed {killed} times; resumed {log.read_bytes().count(b'resumed at agent step')} times")


@pytest.mark.slow
def test_killed_at_random_and_resumed_is_the_same(tmp_path, unbroken, monkeypatch):
    kill_and_resume(tmp_path, unbroken, kills=2, seed=0)
    resumed = tmp_path / "dqn" / "breakout" / "smoke" / "seed1"
    whole = shutil.copytree(unbroken, tmp_path / "whole", symlinks=True)
    real = papers.resolve

    def short(*arguments):
        resolved = real(*arguments)
        return dataclasses.replace(resolved, protocol=dataclasses.replace(resolved.protocol, max_frames=400))

    monkeypatch.setattr(papers, "resolve", short)
    for folder in (resumed, whole):
        evaluate_run(folder, "cpu")
    evaluations = [json.loads((folder / "evaluation.json").read_text()) for folder in (resumed, whole)]
    assert evaluations[0] | {"budget": ""} == evaluations[1] | {"budget": ""}


@pytest.mark.long
def test_killed_fifty_times(tmp_path, unbroken):
    kill_and_resume(tmp_path, unbroken, kills=50, seed=1)


OTHERS = [pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)]


@pytest.mark.parametrize("number", [signal.SIGTERM, *OTHERS])
def test_a_signal_saves_and_leaves(tmp_path, unbroken, number):
    arguments, log = command("dqn", "breakout", tmp_path), tmp_path / "log"
    process = start(arguments, log)
    folder = tmp_path / "dqn" / "breakout" / "smoke" / "seed1"
    assert wait_for(lambda: list((folder / "checkpoint").glob("step-*")))
    process.send_signal(number)
    assert process.wait(30) == runs.STOPPED
    assert f"{signal.Signals(number).name}: saved at agent step" in log.read_text()
    status = json.loads((folder / "checkpoint" / "status.json").read_text())
    assert status["state"] == "stopped"
    assert not (folder / "run.json").exists()
    if number == signal.SIGTERM:
        train("dqn", "breakout", tmp_path)
        assert_same(folder, unbroken)


@pytest.fixture(scope="module")
def crashed_once(tmp_path_factory) -> Path:
    """A run that crashed at agent step 410, with checkpoints at 300 and 400."""
    results = tmp_path_factory.mktemp("crashed")
    with crashing(410, save=False):
        train("dqn", "breakout", results)
    return results


@pytest.fixture
def crashed(crashed_once, tmp_path) -> Path:
    """A copy of it, in this test's own results folder."""
    shutil.copytree(crashed_once, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / "dqn" / "breakout" / "smoke" / "seed1"


def only_open(tmp_path: Path, **options) -> bool:
    """Whether the run is finished already; takes the folder as a training does, and trains nothing."""
    run, *_, finished = open_run("dqn", "breakout", tmp_path, options.pop("settings", TINY), **options)
    run.close()
    return finished


def test_a_torn_newest_checkpoint_falls_back_and_ends_the_same(crashed, unbroken, tmp_path, capsys):
    newest, older = sorted((crashed / "checkpoint").glob("step-*"), reverse=True)
    content = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(content[: len(content) // 2])
    train("dqn", "breakout", tmp_path)
    out = capsys.readouterr().out
    assert f"{newest.name} is damaged" in out
    assert f"resumed at agent step {int(older.name[5:])}" in out
    assert_same(crashed, unbroken)


def test_a_missing_frames_file_is_one_clear_error_every_time(crashed, tmp_path):
    """As the command line says it: exit code 2, no traceback, nothing made or deleted."""
    (crashed / "checkpoint" / "frames.bin").unlink()
    with pytest.raises(UserError, match=r"frames\.bin.*--fresh"):
        train("dqn", "breakout", tmp_path)
    process = start(command("dqn", "breakout", tmp_path), tmp_path / "log")
    assert process.wait(120) == 2
    text = (tmp_path / "log").read_text()
    assert text.startswith("error: ")
    assert "--fresh" in text
    assert "Traceback" not in text
    assert len(list((crashed / "checkpoint").glob("step-*"))) == 2


@pytest.mark.parametrize(
    ("task", "settings"), [("breakout", {"num_envs": 3}), ("cartpole", {"num_envs": 2, "replay": False})]
)
@pytest.mark.slow
def test_several_environments_resume_exactly_too(tmp_path, monkeypatch, task, settings):
    if task == "cartpole":
        tiny = {
            "training_steps": 600,
            "replay_start": 100,
            "evaluation_period": 300,
            "evaluation_steps": 100,
        } | settings
    else:
        tiny = TINY | {"training_steps": 450, "evaluation_steps": 50} | settings
    whole = train("dqn", task, tmp_path / "whole", tiny)
    monkeypatch.setattr(runs, "SAVE_EVERY", 0.05)
    with crashing(333, save=False):
        train("dqn", task, tmp_path / "broken", tiny)
    assert_same(train("dqn", task, tmp_path / "broken", tiny), whole)
    assert (
        json.loads((tmp_path / "broken" / "dqn" / task / "smoke" / "seed1" / "run.json").read_text())["cost"][
            "attempts"
        ]
        == 2
    )


def test_weights_that_are_not_numbers_are_never_saved(tmp_path, monkeypatch):
    """Even when the loss does not show it yet: the evaluation phase clears the loss, and a save is due there."""
    real = runs.Run.evaluate

    def evaluate(self, policy, progress):
        scores = real(self, policy, progress)
        with torch.no_grad():
            next(self.parts["q"].parameters()).fill_(float("nan"))
        return scores

    monkeypatch.setattr(runs.Run, "evaluate", evaluate)
    with pytest.raises(UserError, match=r"a sum of weights became nan by agent step \d+.*step-"):
        train("dqn", "breakout", tmp_path)
    folder = tmp_path / "dqn" / "breakout" / "smoke" / "seed1"
    newest = max((folder / "checkpoint").glob("step-*"))
    key = json.loads((newest / "manifest.json").read_text())["key"]
    state = Checkpoints(folder / "checkpoint", key).load()[0]
    assert all(np.isfinite(w).all() for w in state["q"].values())


@pytest.mark.slow
def test_changed_code_resumes_on_purpose_with_a_note(crashed, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: "0" * 64)
    train("dqn", "breakout", tmp_path, resume_changed=True)
    run = json.loads((crashed / "run.json").read_text())
    assert run["cost"]["attempts"] == 2
    assert any("resumed on purpose although code" in note for note in run["provenance"]["notes"])


@pytest.mark.slow
def test_a_run_that_was_cut_short_does_not_pass_for_a_whole_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        runs.Run,
        "published_score_reached",
        lambda self: self.stop_when_reached and self.parts["progress"].evaluations == 1,
    )
    folder = train("dqn", "breakout", tmp_path, stop_when_reached=True)
    assert json.loads((folder / "run.json").read_text())["progress"]["agent_steps"] == 300
    train("dqn", "breakout", tmp_path, stop_when_reached=True)
    assert json.loads((folder / "run.json").read_text())["progress"]["agent_steps"] == 300
    train("dqn", "breakout", tmp_path)
    assert json.loads((folder / "run.json").read_text())["progress"]["agent_steps"] == 600
    assert "now the whole length is asked for" in capsys.readouterr().out


@pytest.mark.slow
def test_a_disk_that_fills_up_between_checkpoints_stops_nothing(tmp_path, unbroken, monkeypatch):
    """Live logs and the status cannot be written from some moment on; checkpoints and results still can."""
    real = runs.os.replace

    def replace(source, target):
        if str(target).endswith("status.json"):
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(runs.os, "replace", replace)
    monkeypatch.setattr(runs, "LINE_EVERY", 0)
    assert_same(train("dqn", "breakout", tmp_path), unbroken)


@pytest.mark.slow
def test_a_checkpoint_that_failed_once_is_written_again(tmp_path, unbroken, monkeypatch, capsys):
    import common.runs.checkpoint as checkpoint

    real, failures = checkpoint.write_file, iter([True])

    def write_file(path, content):
        if path.name == "state.json" and next(failures, False):
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(checkpoint, "write_file", write_file)
    assert_same(train("dqn", "breakout", tmp_path), unbroken)
    assert "Trying again" in capsys.readouterr().out


@pytest.mark.slow
def test_fresh_puts_aside_and_deletes_nothing(crashed, unbroken, tmp_path):
    train("dqn", "breakout", tmp_path, fresh=True)
    assert_same(crashed, unbroken)
    assert len(list((crashed / "checkpoint" / "stale-1").glob("step-*"))) == 2


def test_changed_settings_never_resume(crashed, tmp_path, capsys):
    assert not only_open(tmp_path, settings=TINY | {"discount": 0.5})
    assert "settings changed since" in capsys.readouterr().out
    assert len(list((crashed / "checkpoint" / "stale-1").glob("step-*"))) == 2
    assert not list((crashed / "checkpoint").glob("step-*"))


def test_changed_code_stops_and_asks_and_touches_nothing(crashed, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in crashed.rglob("step-*/*")}
    monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: "0" * 64)
    with pytest.raises(
        UserError, match=r"saved at agent step \d+, and code.*changed.*--resume-changed.*--fresh"
    ):
        only_open(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in crashed.rglob("step-*/*")} == before


def test_resume_changed_takes_back_what_was_put_aside(crashed, tmp_path, monkeypatch):
    only_open(tmp_path, fresh=True)  # as the advice of earlier versions led to
    assert not list((crashed / "checkpoint").glob("step-*"))
    monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: "0" * 64)
    run, *_ = open_run("dqn", "breakout", tmp_path, TINY, resume_changed=True)
    assert run.checkpoints.load() is not None
    run.close()
    assert len(list((crashed / "checkpoint").glob("step-*"))) == 2
    assert (crashed / "checkpoint" / "frames.bin").exists()


def test_a_finished_run_writes_its_outputs_again(unbroken, tmp_path, capsys):
    results = tmp_path / "copy"
    shutil.copytree(unbroken.parents[3], results, symlinks=True)
    copy = results / unbroken.relative_to(unbroken.parents[3])
    for name in OUTPUTS:
        (copy / name).unlink()
    train("dqn", "breakout", results)
    assert_same(copy, unbroken)
    assert "done:" not in capsys.readouterr().out  # nothing was trained


@pytest.mark.long  # test_faults.py has an orphan that the second one waits for
def test_the_second_of_two_waits_for_the_first(tmp_path, unbroken):
    folder = tmp_path / "dqn" / "breakout" / "smoke" / "seed1"
    (folder / "checkpoint").mkdir(parents=True)
    with open(folder / "checkpoint" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("12345")
        lock.flush()
        process = start(command("dqn", "breakout", tmp_path), tmp_path / "log")
        assert wait_for(lambda: "in use by process 12345; waiting" in (tmp_path / "log").read_text())
        assert not (folder / "run.json").exists()
    assert process.wait(120) == 0
    assert_same(folder, unbroken)


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    with pytest.raises(
        UserError,
        match=r"(the loss|a sum of weights) became (nan|inf) by agent step \d+.*last good checkpoint is kept: .*step-",
    ):
        train("dqn", "breakout", tmp_path, TINY | {"learning_rate": 1e12})
    folder = tmp_path / "dqn" / "breakout" / "smoke" / "seed1"
    newest = max((folder / "checkpoint").glob("step-*"))
    state = Checkpoints(
        folder / "checkpoint", json.loads((newest / "manifest.json").read_text())["key"]
    ).load()[0]
    assert all(np.isfinite(w).all() for w in state["q"].values())


@pytest.mark.slow
def test_what_a_run_needs_is_said_and_checked_before_it_starts(tmp_path, monkeypatch, capsys):
    train("dqn", "breakout", tmp_path / "a")
    ring = 450 * 7056 / 1e9
    assert f"needs {ring + 2 * CHECKPOINT_GB:.1f} GB of disk" in capsys.readouterr().out
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 10_000_000})())
    with pytest.raises(UserError, match=r"0\.01 GB free, checkpoints need 0\.2 GB"):
        train("dqn", "breakout", tmp_path / "b")


def test_a_read_only_results_folder_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\); choose another --results"):
        open_run("dqn", "breakout", tmp_path, TINY)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "pogn"], ["pogn", "pong"]),
        (["--task", "pong", "--budget", "huge"], ["huge", "smoke"]),
        (["--task", "pong", "--variant", "no_reply"], ["no_reply", "no_replay"]),
        (["--task", "pong", "--seed", "0"], ["seed 0", "from 1 to 4,294,967,295"]),
        ([], ["--task", "pong"]),
    ],
)
def test_a_bad_command_line_names_value_and_what_is_allowed(arguments, words):
    from replications.dqn.train import Config

    with pytest.raises(UserError) as error:
        command_line.parse("dqn", Config, arguments)
    for word in words:
        assert word in str(error.value)


def test_help_has_one_usage_and_the_values_of_the_size_that_was_named(capsys):
    def said(*words: str) -> str:
        with pytest.raises(SystemExit) as leaving:
            command_line.parse("dqn", dqn.Config, [*words, "--help"])
        assert not leaving.value.code
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    paper = said()
    assert paper.lower().count("usage:") == 1
    assert (
        "--training-steps INT agent steps (200M frames, about 38 days of play); Methods (default: 50000000)"
        in paper
    )
    hour = said("--task", "pong", "--budget", "hour")
    steps = papers.resolve("dqn", None, "pong", "hour").settings["training_steps"]
    assert "the defaults are those of pong at size hour" in hour
    assert f"about 38 days of play); Methods (default: {steps})" in hour


def test_cuda_without_a_device_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cpu"):
        command_line.pick_device("cuda")


def test_code_fingerprint_ignores_comments_and_sees_code(tmp_path, monkeypatch):
    for folder_name in ("replications/dqn", "replications/ppo", "common"):
        (tmp_path / folder_name).mkdir(parents=True)
        for path in (provenance.ROOT / folder_name).rglob("*.py"):
            copy = tmp_path / path.relative_to(provenance.ROOT)
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(path.read_text())
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(
        provenance, "_file", lambda module, root=tmp_path: tmp_path / (module.replace(".", "/") + ".py")
    )
    before, other = provenance.code_fingerprint("dqn"), provenance.code_fingerprint("ppo")

    def change(name: str, old: str, new: str) -> None:
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text("# a comment\n" + text.replace(old, new))

    change("replications/dqn/train.py", '"""The target of Algorithm 1', '"""Changed words; equation 2')
    change("common/runs/tracking.py", "PROJECT = ", "ANOTHER = ")  # plumbing: it changes no number
    assert provenance.code_fingerprint("dqn") == before
    change("replications/dqn/train.py", 'reduction="sum"', 'reduction="mean"')
    changed = provenance.code_fingerprint("dqn")
    assert changed != before
    change("common/learning/replay.py", "import zlib", "import zlib, sys")
    assert provenance.code_fingerprint("dqn") != changed
    assert provenance.code_fingerprint("ppo") == other  # which has no replay memory


def test_the_key_of_a_checkpoint_is_of_code_packages_and_rom():
    names = ("code_sha256", "lock_sha256", "rom_sha256")
    one = dict.fromkeys(names, "a" * 64)
    keys = {provenance.key_of(one)} | {provenance.key_of(one | {name: "b" * 64}) for name in names}
    assert len(keys) == 4
    assert provenance.key_of(one | {"commit": "c"}) in keys


def test_what_counts_as_uncommitted(tmp_path, monkeypatch):
    git = lambda *words: subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)  # noqa: E731
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    files = (
        "common/a.py",
        "replications/dqn/train.py",
        "replications/dqn/recorded/base/pong/run.json",
        "README.md",
    )
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "first")
    assert not provenance.uncommitted()
    for name in files[2:]:  # a page or recording made meanwhile changes no number
        (tmp_path / name).write_text("two\n")
    assert not provenance.uncommitted()
    (tmp_path / files[1]).write_text("two\n")
    assert "replications/dqn/train.py" in provenance.uncommitted()
    git("add", files[1])
    assert "replications/dqn/train.py" in provenance.uncommitted()
    git("checkout", "-q", "HEAD", files[1])
    (tmp_path / "replications/ppo").mkdir()
    (tmp_path / "replications/ppo/paper.yaml").touch()
    assert "ppo/paper.yaml" in provenance.uncommitted()


def test_the_modules_that_count_are_found_by_following_imports():
    dqn, ppo = (provenance.modules_that_count(f"replications.{paper}.train") for paper in ("dqn", "ppo"))
    shared = {"common.environments.atari", "common.environments.vector", "common.evaluation.protocol"}
    assert (
        shared
        | {
            "common.evaluation.playing",
            "common.runs.progress",
            "common.runs.checkpoint",
            "common.learning.layers",
        }
        <= dqn & ppo
    )
    assert "common.learning.replay" in dqn - ppo
    assert "replications.dqn.train" in dqn - ppo
    assert not {name for name in dqn | ppo if name.startswith("common.papers") or name == "common.runs.run"}


@pytest.mark.slow
def test_a_terminal_that_is_gone_stops_nothing(tmp_path, unbroken):
    """`| head -1` leaves after the first line; the run goes on without it."""
    arguments = command("dqn", "breakout", tmp_path)
    process = subprocess.Popen(arguments, cwd=provenance.ROOT, stdout=subprocess.PIPE, env=environment())
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert_same(tmp_path / "dqn" / "breakout" / "smoke" / "seed1", unbroken)


@pytest.mark.slow
def test_tee_and_the_mirror_die_in_mid_training(tmp_path):
    """A scheduler's SIGTERM to every process saves and is logged; with tee and wandb killed outright, a run saves all the same."""
    to_log = re.search(r'TO_LOG = "(.*)"', (provenance.ROOT / "Snakefile").read_text())[1]
    log, settings = tmp_path / "log", {"training_steps": 1_000_000, "replay_start": 100}
    shell = shlex.join(command("dqn", "cartpole", tmp_path, settings)) + to_log.replace("{log:q}", str(log))
    shell = f"set -euo pipefail; trap : HUP TERM; {shell}"

    def begin() -> tuple[subprocess.Popen, dict[str, psutil.Process], Path]:
        process = subprocess.Popen(
            ["bash", "-c", shell], cwd=provenance.ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
            env=environment() | {"WANDB_MODE": "offline"},
        )  # fmt: skip

        def of() -> dict[str, psutil.Process]:
            found = {}
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                    found[child.name()[:5]] = child
            return found

        assert wait_for(lambda: "wandb" in of() and list(tmp_path.glob("**/live/episodes.csv")), 120)
        live = next(tmp_path.glob("**/live/episodes.csv"))
        grows(live)
        return process, of(), live

    def grows(live: Path) -> None:
        before = len(rows(live))
        assert wait_for(lambda: len(rows(live)) > before + 3, 120)

    def saved(live: Path) -> int:
        newest = Checkpoints(live.parent.parent, "").all()[0]
        assert (newest / "log-episodes.csv").read_bytes() == live.read_bytes()
        assert json.loads((newest / "manifest.json").read_text())["agent_step"] == int(newest.name[5:])
        return int(newest.name[5:])

    process, _, live = begin()
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == runs.STOPPED
    first = saved(live)
    assert f"SIGTERM: saved at agent step {first:,}" in log.read_text()

    process, others, live = begin()
    assert f"resumed at agent step {first:,}" in log.read_text()
    for name in ("tee", "wandb"):
        others[name].kill()
    grows(live)
    others["pytho"].send_signal(signal.SIGTERM)
    assert process.wait(60) == runs.STOPPED
    assert saved(live) > first


def test_nothing_prints_unguarded():
    """A print to a pipe that is gone raises, and would end a run: all goes through `common.say`."""
    files = [
        f
        for folder in ("common", "reports", "replications")
        for f in (provenance.ROOT / folder).rglob("*.py")
    ]
    calls = [
        f"{file.relative_to(provenance.ROOT)}:{node.lineno}"
        for file in files
        if file.name != "say.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls


def test_several_environments_write_more_between_checkpoints(tmp_path):
    """A million slots, one environment: a checkpoint after 25,000 agent steps at the latest; several: after 125,000."""
    run = runs.Run(papers.resolve("dqn", None, "pong", "smoke"), 1, device="cpu", threads=1, results=tmp_path)

    def slack(capacity: int, num_envs: int) -> int:
        envs = SimpleNamespace(num_envs=num_envs, obs_dtype=np.dtype(np.uint8))
        return run.frame_storage(envs, capacity)["slack"]

    assert slack(1_000_000, 1) == 100_000
    assert slack(1_000_000, 64) == 500_000
    assert slack(1000, 1) == 300  # a small ring has room all the same


def test_the_last_scores_are_kept_as_they_are_printed(tmp_path):
    """A resumed run reads them back from episodes.csv, and its mean of the last hundred must be that of one never stopped."""
    run = runs.Run(papers.resolve("dqn", None, "pong", "smoke"), 1, device="cpu", threads=1, results=tmp_path)
    scores, done = np.array([13.231251151234567, 1 / 3]), np.array([True, True])
    progress = Progress(agent_steps=10)
    run.folder.live.mkdir(parents=True)
    run.logs.open()
    run.log_episodes(progress, SimpleNamespace(done=done, scores=scores, lengths=np.array([5, 6])))
    run.log_episode(progress, 2 / 3, 7)
    assert list(run.recent) == [float(row["score"]) for row in run.logs.rows("episodes.csv")]
    assert list(run.recent) == [13.2312512, 0.333333333, 0.666666667]
    assert progress.episodes == 3
