"""A PPO run that is stopped and goes on ends with the same bytes."""

from __future__ import annotations

import json
import signal

import pytest

from common.runs.run import STOPPED
from tests.training import command, start, train, wait_for

TINY = {"training_steps": 1024, "num_envs": 2, "rollout_steps": 64, "minibatch_size": 32, "log_period": 256}


@pytest.mark.parametrize(("task", "variant"), [("breakout", None), ("hopper", "adaptive_kl_001")])
@pytest.mark.slow
def test_stopped_by_a_signal_it_goes_on_and_ends_with_the_same_bytes(task, variant, tmp_path):
    settings = TINY | ({"training_steps": 4096} if task == "hopper" else {})
    whole = train("ppo", task, tmp_path / "whole", settings, variant=variant)
    broken = tmp_path / "broken" / whole.relative_to(tmp_path / "whole")
    status = broken / "checkpoint" / "live" / "curve.csv"
    more = ("--variant", variant) if variant else ()
    for _ in range(2):
        process = start(command("ppo", task, tmp_path / "broken", settings, *more), tmp_path / "log")
        rows = len(status.read_text().splitlines()) if status.exists() else 1
        assert wait_for(lambda rows=rows: status.exists() and len(status.read_text().splitlines()) > rows, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == STOPPED, (tmp_path / "log").read_text()
    process = start(command("ppo", task, tmp_path / "broken", settings, *more), tmp_path / "log")
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert "resumed at agent step" in log, log
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    runs = [json.loads((folder / "run.json").read_text()) for folder in (whole, broken)]
    assert runs[0]["progress"] == runs[1]["progress"]
