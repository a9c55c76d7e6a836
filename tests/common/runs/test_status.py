"""`./run status` tells what runs do from the files alone."""

from __future__ import annotations

import datetime
import json

import pytest

from common.errors import UserError
from common.runs import status

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def write(folder, **files):
    for name, content in files.items():
        path = (
            folder
            / {"run": "run.json", "evaluation": "evaluation.json", "status": "checkpoint/status.json"}[name]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def training(minutes_ago: float, state: str = "training", message: str = "") -> dict:
    updated = (NOW - datetime.timedelta(minutes=minutes_ago)).isoformat(timespec="seconds")
    return {"state": state, "agent_steps": 250_000, "training_steps": 1_000_000, "steps_per_second": 100.0, "updated": updated, "message": message}  # fmt: skip


def test_each_state_has_its_line(tmp_path):
    pong = tmp_path / "dqn" / "pong" / "hour"
    write(pong / "seed1", run={"cost": {"seconds": 3000}}, evaluation={})
    write(pong / "seed2", run={"cost": {"seconds": 3000}})
    write(pong / "seed3", status=training(0.1))
    write(pong / "seed4", status=training(60))
    write(pong / "seed5", status=training(60, "failed", "the loss is not a number"))
    write(pong / "seed6", status=training(60, "stopped", "by SIGTERM"))
    (pong / "seed7/checkpoint/live").mkdir(parents=True)
    write(pong / "seed9", run={"cost": {"seconds": 60}})
    write(pong / "seed10", status=training(0.1))  # it failed once and is tried again
    (pong / "seed11").mkdir()
    (pong / "seed11" / "run.json").write_text("{damaged")
    (tmp_path / status.ASKED).write_text("dqn/pong/hour/seed3\ndqn/pong/hour/seed8\n")
    why = {
        "dqn/pong/hour/seed7": "no such game",
        "dqn/pong/hour/seed9": "no film",
        "dqn/pong/hour/seed10": "old",
    }
    (tmp_path / status.FAILED).write_text(json.dumps(why))
    found = {state.run.removeprefix("dqn/pong/hour/"): state for state in status.states_in(tmp_path, NOW)}
    assert {name: (state.state, state.words) for name, state in found.items()} == {
        "seed1": ("finished", "50 minutes"),
        "seed2": ("finished", "50 minutes; not evaluated yet"),
        "seed3": ("training", "100 steps/s, 25% of 1,000,000 agent steps, 2.1 hours left"),
        "seed4": ("silent", "25% of 1,000,000 agent steps, no word since 2026-03-01T11:00:00+00:00: killed, or it goes on elsewhere"),
        "seed5": ("failed", "the loss is not a number: 25% of 1,000,000 agent steps"),
        "seed6": ("stopped", "by SIGTERM: 25% of 1,000,000 agent steps"),
        "seed7": ("failed", "no such game"),
        "seed8": ("waiting", ""),
        "seed9": ("failed", "trained; its evaluation: no film"),
        "seed10": ("training", "100 steps/s, 25% of 1,000,000 agent steps, 2.1 hours left"),
        "seed11": ("damaged", f"{pong / 'seed11' / 'run.json'} cannot be read"),
    }  # fmt: skip
    printed = status.table(status.states_in(tmp_path, NOW))
    assert (
        printed[0] == "11 runs: 3 failed, 1 damaged, 1 silent, 2 training, 1 stopped, 1 waiting, 2 finished"
    )
    assert [line.split()[0] for line in printed[1:4]] == ["failed"] * 3


def test_a_folder_that_is_not_there(tmp_path, capsys):
    with pytest.raises(UserError, match="there is no such folder"):
        status.main(["--results", str(tmp_path / "nowhere")])
    status.main(["--results", str(tmp_path)])
    assert capsys.readouterr().out == "no runs\n"
