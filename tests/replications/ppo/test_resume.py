"""A PPO run that is stopped and goes on ends with the same bytes."""

from __future__ import annotations

import json
import signal

import pytest

from tests.training import command, start, train, wait_for

TINY = {"training_steps": 1024, "num_envs": 2, "rollout_steps": 64, "minibatch_size": 32, "log_period": 256}


@pytest.mark.parametrize("task", ["breakout", "hopper"])
@pytest.mark.slow
def test_stopped_by_a_signal_and_killed_it_ends_with_the_same_bytes(task, tmp_path):
    settings = TINY | ({"training_steps": 2048} if task == "hopper" else {})
    whole = train("ppo", task, tmp_path / "whole", settings)
    broken = tmp_path / "broken" / whole.relative_to(tmp_path / "whole")
    status = broken / "checkpoint" / "live" / "curve.csv"
    for how in (signal.SIGTERM, signal.SIGTERM):
        process = start(command("ppo", task, tmp_path / "broken", settings), tmp_path / "log")
        rows = len(status.read_text().splitlines()) if status.exists() else 1
        wait_for(lambda rows=rows: status.exists() and len(status.read_text().splitlines()) > rows, 60)
        process.send_signal(how)
        process.wait(60)
    process = start(command("ppo", task, tmp_path / "broken", settings), tmp_path / "log")
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert "resumed at agent step" in log, log
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    runs = [json.loads((folder / "run.json").read_text()) for folder in (whole, broken)]
    assert runs[0]["progress"] == runs[1]["progress"]
