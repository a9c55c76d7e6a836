"""A toy that must be solved: the same script, the same update, four numbers instead of screens."""

from __future__ import annotations

import pytest

from common.evaluation.protocol import evaluate_run
from tests.training import train


@pytest.mark.slow
def test_cartpole_is_solved(tmp_path):
    folder = train("dueling_dqn", "cartpole", tmp_path, {"training_steps": 60_000}, seed=1, budget="hour")
    assert evaluate_run(folder, "cpu")["score"] >= 475
