"""A3C's runs: every branch at toy size, resumed exactly with one worker, correctly with several, no process left behind."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from common.errors import UserError
from common.runs import command_line
from common.runs import run as runs
from common.runs.provenance import modules_that_count
from replications.a3c.train import Config
from tests.training import command, crashing, open_run, start, train, wait_for

TINY = {"training_steps": 400, "evaluation_period": 200, "evaluation_steps": 100, "workers": 1}
SMALL = {"training_steps": 1500, "evaluation_period": 500, "evaluation_steps": 200, "rollout": 5}  # CartPole
SLICE = 0.02  # seconds of work between ticks, so that a run can be stopped soon
PROMISED = ("model.safetensors", "curve.csv", "episodes.csv")


def rows(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open()))


def in_dev_shm() -> set[str]:
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


CASES = [
    ("breakout", None, TINY, 230),
    pytest.param("cartpole", "lstm", SMALL, 700, marks=pytest.mark.slow),
    ("cartpole", "n_step_q", SMALL, 700),
    ("cartpole", "one_step_q", SMALL, 700),
    ("cartpole", "one_step_sarsa", SMALL, 700),
]
LSTM = {"lstm": {"lstm": True}} | {
    name: {"algorithm": name} for name in ("n_step_q", "one_step_q", "one_step_sarsa")
}


@pytest.mark.parametrize(
    ("task", "variant", "settings", "crash"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_one_worker_resumed_is_the_same_to_the_byte(tmp_path, task, variant, settings, crash):
    settings = (
        settings | {"workers": 1, "target_period": 100, "final_exploration_step": 800} | LSTM.get(variant, {})
    )
    unbroken = train("a3c", task, tmp_path / "one", settings)
    run, script, config, _ = open_run("a3c", task, tmp_path / "two", settings)
    run.seconds_between_ticks, before = SLICE, psutil.Process().children()
    with crashing(crash):
        script.train(config, run)
    run.close()
    assert not set(psutil.Process().children()) - set(before)
    broken = train("a3c", task, tmp_path / "two", settings)
    for name in PROMISED:
        assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), name
    one, two = (json.loads((folder / "run.json").read_text()) for folder in (unbroken, broken))
    assert one["progress"] == two["progress"]
    assert one["result"] == two["result"]
    assert (one["cost"]["attempts"], two["cost"]["attempts"]) == (1, 2)
    # every branch was reached
    assert one["progress"]["agent_steps"] in range(settings["training_steps"], settings["training_steps"] + 5)
    assert (
        one["progress"]["updates"] > one["progress"]["agent_steps"] / 5
    )  # terminal states cut rollouts short
    assert one["progress"]["episodes"] >= 1
    curve = rows(unbroken / "curve.csv")
    assert (
        len(curve)
        == one["result"]["counts"]["evaluations"]
        == settings["training_steps"] // settings["evaluation_period"]
    )
    assert float(curve[-1]["learning_rate"]) == 0
    actor_critic = variant in (None, "lstm")
    assert all((float(r["entropy"]) > 0.1) == actor_critic for r in curve)
    assert all(float(r["value_loss"]) > 0 for r in curve)
    copies = one["progress"]["agent_steps"] // 100
    assert one["result"]["counts"]["target_copies"] == (0 if actor_critic else copies)


@pytest.fixture(scope="module")
def resumed_pair(tmp_path_factory):
    """Three workers on CartPole that were stopped by a crash: the folder, and what the last checkpoint holds."""
    results = tmp_path_factory.mktemp("three")
    settings = SMALL | {"workers": 3, "lstm": True}
    run, script, config, _ = open_run("a3c", "cartpole", results, settings)
    run.seconds_between_ticks = SLICE
    with crashing(600):
        script.train(config, run)
    run.close()
    state, _ = run.checkpoints.load()
    return results, settings, state


def test_a_checkpoint_of_several_workers_is_one_moment(resumed_pair):
    _, _, state = resumed_pair
    workers = state["workers"]["workers"]
    assert len(workers) == 3
    counts = np.asarray(state["counts"])
    assert counts[:, 0].sum() == state["progress"]["agent_steps"]
    assert counts[:, 1].sum() == state["progress"]["updates"]
    assert (counts[:, 0] > 0).all()
    for worker in workers:  # its LSTM's state is zero exactly at the start of an episode
        assert np.asarray(worker["hidden"]).shape == (2, 1, 256)
        assert np.asarray(worker["hidden"]).any() == (len(worker["envs"]["actions"][0]) > 0)
    assert len({json.dumps(worker["rng"]["state"]["state"]) for worker in workers}) == 3


def test_several_workers_go_on_from_exactly_where_each_was(resumed_pair, monkeypatch):
    results, settings, state = resumed_pair
    run, script, config, _ = open_run("a3c", "cartpole", results, settings)
    seen = {}

    def look(progress):
        parts = run.parts
        seen.update(
            workers=parts["workers"].state_dict(),
            weights=parts["network"].state_dict(),
            mean=parts["mean_square"].clone(),
        )
        raise KeyboardInterrupt

    run.tick = look
    with pytest.raises(KeyboardInterrupt):
        script.train(config, run)
    run.close()
    for now, saved in zip(seen["workers"]["workers"], state["workers"]["workers"], strict=True):
        assert now["rng"] == saved["rng"]
        np.testing.assert_array_equal(now["stack"]["planes"], saved["stack"]["planes"])
        np.testing.assert_array_equal(now["hidden"], saved["hidden"])
        np.testing.assert_array_equal(now["envs"]["actions"][0], saved["envs"]["actions"][0])
        np.testing.assert_array_equal(now["envs"]["episodes"], saved["envs"]["episodes"])
    for name, tensor in seen["weights"].items():
        np.testing.assert_array_equal(tensor.numpy(), state["network"][name])
    np.testing.assert_array_equal(seen["mean"].numpy(), state["mean_square"])

    folder = train("a3c", "cartpole", results, settings)
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["workers"] == 3
    assert 1500 <= record["progress"]["agent_steps"] < 1500 + 3 * 5
    episodes = rows(folder / "episodes.csv")
    assert [int(e["episode"]) for e in episodes] == list(range(1, record["progress"]["episodes"] + 1))
    assert sum(int(e["length"]) for e in episodes) <= record["progress"]["agent_steps"]
    assert all(float(e["score"]) == int(e["length"]) for e in episodes)


def test_another_number_of_workers_does_not_resume_silently(tmp_path):
    settings = SMALL | {"workers": 2}
    run, script, config, _ = open_run("a3c", "cartpole", tmp_path, settings)
    run.seconds_between_ticks = SLICE
    with crashing(300):
        script.train(config, run)
    run.close()
    run, *_ = open_run("a3c", "cartpole", tmp_path, settings | {"workers": 1})
    assert run.checkpoints.load() is None
    assert list(run.folder.work.glob("stale-1/step-*"))
    run.close()


def test_an_lstm_goes_with_a3c_only(tmp_path):
    run, script, config, _ = open_run("a3c", "cartpole", tmp_path, {"lstm": True, "algorithm": "n_step_q"})
    with pytest.raises(UserError, match="lstm and algorithm 'n_step_q' do not go together"):
        script.train(config, run)
    run.close()


def test_the_machine_decides_how_many_workers_unless_the_command_line_does(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    arguments = ["--task", "pong", "--budget", "paper", "--device", "cpu"]
    _, resolved = command_line.parse("a3c", Config, arguments)
    assert resolved.settings["workers"] == 3
    (listed,) = [d for d in resolved.deviations if d.field == "workers"]
    assert (listed.paper, listed.ours) == (16, 3)
    assert "a core of its own" in listed.reason
    _, resolved = command_line.parse("a3c", Config, [*arguments, "--workers", "16"])
    assert resolved.settings["workers"] == 16
    assert not [d for d in resolved.deviations if d.field == "workers"]


def test_the_workers_code_counts_for_this_paper_only():
    for script in ("train", "speedup"):
        assert {
            "common.learning.workers",
            "replications.a3c.train",
            "replications.a3c.value_based",
        } <= modules_that_count(f"replications.a3c.{script}")
    assert "common.learning.workers" not in modules_that_count("replications.dqn.train")


LONG = {
    "training_steps": 49_000,
    "evaluation_period": 40_000,
    "workers": 2,
}  # no timing beforehand below 50,000


def children_of(process) -> list[psutil.Process]:
    return [c for c in psutil.Process(process.pid).children() if c.status() != psutil.STATUS_ZOMBIE]


def begun(folder: Path, steps: int = 1):
    def check() -> bool:
        path = folder / "checkpoint" / "live" / "episodes.csv"
        return path.exists() and len(path.read_bytes().splitlines()) > steps

    return check


@pytest.mark.slow
def test_a_signal_saves_and_a_killed_worker_is_reported_and_nobody_is_left(tmp_path):
    """One real command line, three times: SIGTERM, a worker's SIGKILL, its own SIGKILL."""
    before, log = in_dev_shm(), tmp_path / "log"
    arguments = command("a3c", "cartpole", tmp_path, LONG, "--device", "cpu")
    folder = tmp_path / "a3c" / "cartpole" / "smoke" / "seed1"

    process = start(arguments, log)
    assert wait_for(begun(folder), 120), log.read_text()
    workers = children_of(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == runs.STOPPED, log.read_text()
    assert "SIGTERM: saved at agent step" in log.read_text()
    assert wait_for(
        lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), 5
    )
    step = int(next((folder / "checkpoint").glob("step-*")).name.removeprefix("step-"))
    assert step > 0

    process = start(arguments, log)
    assert wait_for(lambda: b"resumed at agent step" in log.read_bytes(), 120), log.read_text()
    assert f"resumed at agent step {step:,}" in log.read_text()
    assert wait_for(lambda: len(children_of(process)) == 2)
    workers = children_of(process)
    workers[1].kill()
    assert process.wait(30) == 2
    assert f"worker 1 (process {workers[1].pid}) was killed by SIGKILL" in log.read_text()
    assert "the same command goes on from there" in log.read_text()
    assert not any(w.is_running() for w in workers)
    assert json.loads((folder / "checkpoint" / "status.json").read_text())["state"] == "failed"

    process = start(arguments, log)
    assert wait_for(lambda: log.read_text().count("resumed at agent step") == 2, 120), log.read_text()
    workers = children_of(process)
    assert len(workers) == 2
    process.kill()
    process.wait()
    assert wait_for(
        lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), 5
    )
    assert in_dev_shm() == before
