"""The soak's logic with a tiny ring and an invented clock: what is counted, fitted and written."""

from __future__ import annotations

import itertools
import json
import types
from pathlib import Path

import numpy as np
import pytest

from benchmarks import soak
from common.learning.replay import Replay


def test_slope_leaves_out_the_first_quarter():
    minutes = list(range(41))
    grown = [500.0 if m < 10 else 100 + 2 * m for m in minutes]
    assert soak.slope(minutes, grown) == pytest.approx(120)  # 2 MB a minute
    assert soak.slope(minutes, [7.0] * 41) == pytest.approx(0)
    assert soak.slope([0, 1], [1.0, 2.0]) is None


def test_overhead_is_standstill_and_slower_steps():
    assert soak.overhead(stall=0.5, write=4, slowdown=0.25, every=300) == pytest.approx(1.5 / 300)


def test_a_filled_ring_is_full_and_can_be_sampled(tmp_path):
    replay = Replay(3000, (2, 2), stack=4, slack=500, folder=tmp_path)
    soak.fill(replay)
    assert replay.written[0] == 3500
    assert len(replay) == 3000
    assert (replay.frames.reshape(3500, -1).max(axis=1) > 0).all()
    ends = np.flatnonzero(~replay.complete[0])
    assert ends.tolist() == [999, 1999, 2999, 3499]
    batch = replay.sample(np.random.default_rng(0), 64)
    assert batch.terminals.sum() <= 2
    twin = Replay(3000, (2, 2), stack=4, slack=500, folder=tmp_path)
    twin.load_state_dict(replay.state_dict())  # its checksums are those of its frames
    assert twin.digest() == replay.digest()


def test_a_short_soak_counts_phases_checkpoints_and_handles(tmp_path, monkeypatch, capsys):
    """A minute of an invented clock, half a second a look; a file left open at each evaluation phase shows."""
    clock = itertools.count(0, 0.05)
    monkeypatch.setattr(soak, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    real, leaked = soak.SoakRun.evaluate, []

    def leaky(self, policy, at):
        leaked.append(open(tmp_path / "leak", "w"))  # noqa: SIM115
        return real(self, policy, at)

    monkeypatch.setattr(soak.SoakRun, "evaluate", leaky)
    tiny = {
        "replay_capacity": 200,
        "replay_start": 10,
        "evaluation_period": 50,
        "evaluation_steps": 10,
        "batch_size": 2,
    }
    found = soak.soak(0.4, 6, tmp_path / "soak", 1, tiny)
    for file in leaked:
        file.close()
    assert found["evaluation_phases"] == len(leaked) >= 2
    assert found["open_files"]["last"] - found["open_files"]["first"] >= len(leaked) - 1
    assert found["checkpoints"]["number"] >= 1  # every 75 slots
    assert found["checkpoints"]["stall_seconds"]["largest"] > 0
    assert found["agent_steps"] > 100
    assert [sample["minutes"] for sample in found["samples"]] == sorted(
        s["minutes"] for s in found["samples"]
    )
    assert found["samples"][-1]["resident_mb"] > 100
    assert list((tmp_path / "soak").iterdir()) == []
    assert "anonymous_mb" in capsys.readouterr().out
    json.dumps(found)


def test_the_recorded_soak_is_a_whole_one():
    found = json.loads(Path(soak.__file__).with_name("soak.json").read_text())
    assert found["minutes"] >= soak.MINUTES - 1
    assert found["replay_slots"] == 1_100_000
    assert found["evaluation_phases"] >= 10
    assert found["checkpoints"]["number"] >= 5
    assert found["open_files"]["last"] == found["open_files"]["first"]
