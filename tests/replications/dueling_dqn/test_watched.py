"""A short real training of dueling DQN, watched: every step of its algorithm is worked out again."""

import math

import pytest

from tests.watched import Algorithm, Watched, centred_rmsprop, check, clipped_q_learning, layers


def values(c, w, x, noise=None):
    """Equation 9 on a layer of 128 units, or one stream on it."""
    features = layers(w, x.flatten(1), "layers.1").relu()
    if not c.dueling:
        return layers(w, features, "layers.3.0", "layers.3.2")
    value = layers(w, features, "layers.3.values.0", "layers.3.values.2")
    advantage = layers(w, features, "layers.3.advantages.0", "layers.3.advantages.2")
    return value + advantage - advantage.sum(dim=1, keepdim=True) / advantage.shape[1]


CLIPPED = {"at": 0}


def gradient(c, w, target, batch, weights, passes):
    """What enters the shared layers is divided by the root of 2 where there are two streams; then the whole is clipped."""
    loss, d, sizes = clipped_q_learning(double=True, values=values)(c, w, target, batch, weights, passes)
    if c.dueling:
        d |= {name: tensor / math.sqrt(2) for name, tensor in d.items() if name.startswith("layers.1.")}
    norm = math.sqrt(sum(float((tensor**2).sum()) for tensor in d.values()))
    CLIPPED["at"] += norm > c.gradient_clip
    return loss, {name: tensor * min(1, c.gradient_clip / norm) for name, tensor in d.items()}, sizes


DUELING = Algorithm(
    "dueling_dqn", values, gradient, centred_rmsprop, prioritised=lambda c: "rank" if c.prioritized else None
)
SHORT = {"gradient_clip": 11.0, "hidden_units": 24, "priority_exponent": 0.55, "importance_exponent": 0.35}
CASES = {
    "paper": {},
    "single_clip": {"dueling": False},
    "prioritized": {"prioritized": True},
    "lives go on, clipped at 2": {"life_loss_terminal": False, "reward_clip": 2.0, "update_period": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_a_whole_training_is_what_the_algorithm_says(case, tmp_path, monkeypatch):
    CLIPPED["at"] = 0
    f = check(Watched("dueling_dqn", tmp_path, monkeypatch, SHORT | CASES[case]), DUELING)
    assert 5 < CLIPPED["at"] < f.updates - 5  # gradients above and below the largest norm
    last = "layers.3.advantages.2" if f.c.dueling else "layers.3.2"
    assert f.net[f"{last}.weight"].shape == (4, 24)
    assert f.net[f"{last}.bias"].shape == ((4,) if f.c.dueling else (1,))
