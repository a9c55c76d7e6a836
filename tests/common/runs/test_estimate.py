from __future__ import annotations

import pytest

from common import papers
from common.runs.costs import Costs, total_seconds
from common.runs.estimate import measure


def test_arithmetic():
    costs = Costs(waiting=0.001, learning=0.01, evaluating=0.002)
    settings = {"training_steps": 1000, "replay_start": 200, "evaluation_period": 300, "evaluation_steps": 50}
    assert total_seconds(costs, settings) == pytest.approx(0.2 + 8 + 3 * 0.1)
    assert total_seconds(costs, settings | {"replay_start": 5000}) == pytest.approx(1 + 0.3)


def test_a_probe_measures_the_real_script_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    costs = measure(papers.resolve("dqn", None, "cartpole", "hour"), 1, "cpu", 1)
    assert 0 < costs.waiting < costs.learning
    assert costs.evaluating > 0
    assert list(tmp_path.iterdir()) == []
