"""A run that cannot be lost: killed, stopped, torn, changed, started twice."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import random
import shutil
import signal
import subprocess
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common import papers
from common.errors import UserError
from common.evaluation.protocol import evaluate_run
from common.runs import run as runs
from common.runs.checkpoint import Checkpoints
from tests.training import TINY, command, environment, open_run, start, train, wait_for

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
    assert (resumed / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()


@pytest.mark.long
def test_killed_fifty_times(tmp_path, unbroken):
    kill_and_resume(tmp_path, unbroken, kills=50, seed=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
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


def stop_after(steps: int):
    """A tick that leaves the loop by an exception, as a crash would, once `steps` agent steps are done."""

    class Crash(Exception):
        pass

    real = runs.Run.tick

    def tick(self, at):
        real(self, at)
        if at.agent_steps >= steps:
            self.checkpoints.wait()
            raise Crash

    return tick, Crash


@pytest.fixture
def crashed(tmp_path, monkeypatch) -> Path:
    """A run that crashed at agent step 410, with checkpoints at 300 and 400."""
    tick, crash = stop_after(410)
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "tick", tick)
        with pytest.raises(crash):
            train("dqn", "breakout", tmp_path)
    return tmp_path / "dqn" / "breakout" / "smoke" / "seed1"


def test_a_torn_newest_checkpoint_falls_back_and_ends_the_same(crashed, unbroken, tmp_path, capsys):
    newest, older = sorted((crashed / "checkpoint").glob("step-*"), reverse=True)
    content = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(content[: len(content) // 2])
    train("dqn", "breakout", tmp_path)
    out = capsys.readouterr().out
    assert f"{newest.name} is torn" in out
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
    tick, crash = stop_after(333)
    monkeypatch.setattr(runs, "SAVE_EVERY", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "tick", tick)
        with pytest.raises(crash):
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

    def evaluate(self, policy, at):
        scores = real(self, policy, at)
        with torch.no_grad():
            next(self._parts["q"].parameters()).fill_(float("nan"))
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
    monkeypatch.setattr(runs, "code_fingerprint", lambda *_: "0" * 64)
    train("dqn", "breakout", tmp_path, resume_changed=True)
    run = json.loads((crashed / "run.json").read_text())
    assert run["cost"]["attempts"] == 2
    assert any("resumed on purpose although code" in note for note in run["provenance"]["notes"])


@pytest.mark.slow
def test_a_run_that_was_cut_short_does_not_pass_for_a_whole_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs.Run, "reached", lambda self, at: self.stop_when_reached and at.evaluations == 1)
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
    train("dqn", "breakout", tmp_path, TINY | {"discount": 0.5})
    out = capsys.readouterr().out
    assert "settings changed since" in out
    assert "resumed" not in out
    assert len(list((crashed / "checkpoint" / "stale-1").glob("step-*"))) == 2


def test_changed_code_never_resumes_silently(crashed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "code_fingerprint", lambda *_: "0" * 64)
    train("dqn", "breakout", tmp_path)
    out = capsys.readouterr().out
    assert "code, packages (uv.lock) or ROM changed since" in out
    assert "resumed" not in out


def test_a_finished_run_writes_its_outputs_again(unbroken, tmp_path, capsys):
    folder = train("dqn", "breakout", tmp_path)
    for name in runs.OUTPUTS:
        (folder / name).unlink()
    train("dqn", "breakout", tmp_path)
    assert_same(folder, unbroken)
    assert capsys.readouterr().out.count("done:") == 1  # trained once


@pytest.mark.slow
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
        train("dqn", "breakout", tmp_path, TINY | {"learning_rate": 1e30})
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
    assert f"needs {ring + 2 * runs.CHECKPOINT_GB:.1f} GB of disk" in capsys.readouterr().out
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
        (["--task", "pong", "--seed", "-1"], ["-1", "0 or more"]),
        ([], ["--task", "pong"]),
    ],
)
def test_a_bad_command_line_names_value_and_what_is_allowed(arguments, words):
    from replications.dqn.train import Config

    with pytest.raises(UserError) as error:
        runs.parse("dqn", Config, arguments)
    for word in words:
        assert word in str(error.value)


def test_cuda_without_a_device_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cpu"):
        runs.pick_device("cuda")


def test_code_fingerprint_ignores_comments_and_sees_code(tmp_path, monkeypatch):
    for name in ("replications/dqn", "common"):
        (tmp_path / name).mkdir(parents=True)
    for path in ["replications/dqn/train.py", *(f"common/{name}.py" for name in runs.CODE)]:
        (tmp_path / path).write_text((runs.ROOT / path).read_text())
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    before = runs.code_fingerprint("dqn")
    script = tmp_path / "replications/dqn/train.py"
    text = script.read_text()
    script.write_text("# a comment\n" + text.replace('"""Equation 2', '"""Changed words; equation 2'))
    assert runs.code_fingerprint("dqn") == before
    script.write_text(text.replace('reduction="sum"', 'reduction="mean"'))
    assert runs.code_fingerprint("dqn") != before


@pytest.mark.slow
def test_a_terminal_that_is_gone_stops_nothing(tmp_path, unbroken):
    """`| head -1` leaves after the first line; the run goes on without it."""
    arguments = command("dqn", "breakout", tmp_path)
    process = subprocess.Popen(arguments, cwd=runs.ROOT, stdout=subprocess.PIPE, env=environment())
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert_same(tmp_path / "dqn" / "breakout" / "smoke" / "seed1", unbroken)


def test_several_environments_write_more_between_checkpoints(tmp_path):
    """A million slots, one environment: a checkpoint after 25,000 agent steps at the latest; several: after 125,000."""
    resolved = papers.resolve(papers.load_paper("dqn"), None, "pong", "smoke")
    run = runs.Run(resolved, 1, device="cpu", threads=1, results=tmp_path)
    assert run.slack(1_000_000, 1) == 100_000
    assert run.slack(1_000_000, 64) == 500_000
    assert run.slack(1000, 1) == 300  # a small ring has room all the same


def test_the_last_scores_are_kept_as_they_are_printed():
    """A resumed run reads them back from episodes.csv, and its mean of the last hundred must be that of one never stopped."""
    run = runs.Run.__new__(runs.Run)
    run.recent, run.frames_per_step = deque(), 4
    rows = []
    run._append = lambda name, row: rows.append(row)
    at = SimpleNamespace(agent_steps=10, episodes=0)
    scores = np.array([13.231251151234567, 1 / 3])
    done = np.array([True, True])
    run.log_episodes(at, SimpleNamespace(done=done, scores=scores, lengths=np.array([5, 6])))
    run.log_episode(at, 2 / 3, 7)
    assert list(run.recent) == [float(str(row[3])) for row in rows]
    assert list(run.recent) == [13.2312512, 0.333333333, 0.666666667]
