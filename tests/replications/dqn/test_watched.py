"""A short real training of DQN, watched: every step of Algorithm 1 is worked out again."""

import pytest

from tests.watched import Algorithm, Watched, centred_rmsprop, check, clipped_q_learning, mlp

DQN = Algorithm("dqn", mlp, clipped_q_learning(double=False), centred_rmsprop, columns=())
CASES = {
    "paper": {},
    "lives go on, clipped at 2": {"life_loss_terminal": False, "reward_clip": 2.0, "update_period": 2},
    "no target network": {"target_network": False},
    "no replay": {"replay": False},
    "learns while stepping": {"learn_while_stepping": True},
}


@pytest.mark.parametrize("case", CASES)
def test_a_whole_training_is_what_algorithm_1_says(case, tmp_path, monkeypatch):
    check(Watched("dqn", tmp_path, monkeypatch, CASES[case]), DQN)
