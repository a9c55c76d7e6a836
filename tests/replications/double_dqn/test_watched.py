"""A short real training of Double DQN, watched: every step of its algorithm is worked out again."""

import pytest

from tests.watched import Algorithm, Watched, centred_rmsprop, check, clipped_q_learning, mlp

DOUBLE = Algorithm("double_dqn", mlp, clipped_q_learning(double=True), centred_rmsprop)
CASES = {
    "paper": {},
    "tuned: one bias": {"shared_bias": True},
    "lives go on, clipped at 2": {"life_loss_terminal": False, "reward_clip": 2.0, "update_period": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_a_whole_training_is_what_the_algorithm_says(case, tmp_path, monkeypatch):
    f = check(Watched("double_dqn", tmp_path, monkeypatch, CASES[case]), DOUBLE)
    assert f.net["layers.5.bias"].shape == ((1,) if f.c.shared_bias else (4,))
