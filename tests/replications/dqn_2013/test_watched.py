"""A short real training of DQN (2013), watched: every step of Algorithm 1 is worked out again."""

import numpy as np

from tests.watched import Algorithm, Watched, check, gradient_of, mlp, q_errors


def squared(c, w, target, batch, weights, passes):
    """Half the square of the error, averaged; the network that learns gives the target."""
    loss, d = gradient_of(
        w, lambda leaves: (q_errors(c, leaves, w, batch, mlp, double=False) ** 2).mean() / 2
    )
    return loss.item(), d, None


def plain_rmsprop(c):
    s = {}

    def step(w, d):
        after = {}
        for k in w:
            s[k] = c.squared_gradient_momentum * s.get(k, 0) + (1 - c.squared_gradient_momentum) * d[k] ** 2
            after[k] = w[k] - c.learning_rate * d[k] / (s[k] + c.min_squared_gradient).sqrt()
        return after

    return step


DQN_2013 = Algorithm(
    "dqn_2013", mlp, squared, plain_rmsprop, reward=lambda c, r: np.sign(r), lives=lambda c: False,
    keeps_best=False, has_target=False, columns=(),
)  # fmt: skip


def test_a_whole_training_is_what_algorithm_1_says(tmp_path, monkeypatch):
    check(Watched("dqn_2013", tmp_path, monkeypatch, {"learning_rate": 0.003, "update_period": 2}), DQN_2013)
