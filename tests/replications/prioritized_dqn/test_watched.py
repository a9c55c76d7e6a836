"""A short real training of prioritized DQN, watched: every step of its Algorithm 1 is worked out again."""

import pytest

from tests.watched import Algorithm, Watched, centred_rmsprop, check, clipped_q_learning, mlp

PRIORITIZED = Algorithm(
    "prioritized_dqn", mlp, clipped_q_learning(double=True), centred_rmsprop,
    priority=lambda c, sizes: sizes + c.priority_floor, prioritised=lambda c: c.prioritisation,
    columns=("value_estimate", "beta"),
)  # fmt: skip
SHORT = {"priority_exponent": 0.55, "importance_exponent": 0.35, "priority_floor": 0.07}
CASES = {
    "proportional": {},
    "rank": {"prioritisation": "rank"},
    "lives go on, clipped at 2": {
        "life_loss_terminal": False,
        "reward_clip": 2.0,
        "update_period": 2,
        "shared_bias": False,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_whole_training_is_what_algorithm_1_says(case, tmp_path, monkeypatch):
    f = check(Watched("prioritized_dqn", tmp_path, monkeypatch, SHORT | CASES[case]), PRIORITIZED)
    assert f.net["layers.5.bias"].shape == ((1,) if f.c.shared_bias else (4,))
