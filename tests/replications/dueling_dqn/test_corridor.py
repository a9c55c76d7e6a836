"""The corridor's exact values, both networks' updates against autograd, and a small corridor that must be learned."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from replications.dueling_dqn import corridor as c

CONFIG = c.Config()


def test_the_way_through():
    made = c.make_corridor(10, CONFIG)
    states = len(made.next_state)
    assert states == 70
    ups = [s for s in range(states - 1) if made.next_state[s, 0] == s + 1]
    rights = [s for s in range(states - 1) if made.next_state[s, 3] == s + 1]
    assert (len(ups), len(rights), len(ups) + len(rights)) == (9 + 10, 50, 69)
    assert (made.next_state[:, 4:] == np.arange(states)[:, None]).all()  # no-ops
    assert made.next_state[0, :4].tolist() == [1, 0, 0, 0]  # walls
    assert made.next_state[9, :4].tolist() == [9, 8, 9, 10]  # the first corner: down and right only
    assert made.reward.sum() == 1 + 6 + 3  # into the end, and (never used) out of it: no-ops and walls there
    assert made.policy.sum(axis=1) == pytest.approx(1.0)
    assert made.policy[0].tolist() == pytest.approx([0.999 + 0.0001] + 9 * [0.0001])


def test_values_by_iterating_the_bellman_equation():
    made = c.make_corridor(5, CONFIG)
    q = np.zeros((70, 5))
    for _ in range(1000):
        q = made.reward + 0.99 * (made.policy * q).sum(axis=1)[made.next_state]
        q[-1] = 0
    assert np.abs(q[:-1] - made.values).max() < 1e-9
    assert made.values[0].max() == pytest.approx(0.99**68, rel=0.002)
    assert made.values[68].max() == 1.0


def as_torch(network):
    names = [name for name in vars(network) if name[0] in "wb" and name[1:] in ("1", "2", "3", "v", "a")]
    return {name: torch.tensor(getattr(network, name), requires_grad=True) for name in names}


def torch_values(w, state, dueling):
    first = torch.relu(w["w1"][state] + w["b1"])
    second = torch.relu(first @ w["w2"] + w["b2"])
    if not dueling:
        return second @ w["w3"] + w["b3"]
    value, advantages = second[:25] @ w["wv"] + w["bv"], second[25:] @ w["wa"] + w["ba"]
    return value + advantages - advantages.mean()


@pytest.mark.parametrize("dueling", [False, True])
def test_update_against_autograd(dueling):
    network = c.Network(70, 10, dueling, CONFIG, np.random.default_rng(1))
    weights = as_torch(network)
    assert len(weights) == (8 if dueling else 6)
    assert network.values(17) == pytest.approx(torch_values(weights, 17, dueling).detach().numpy())
    (0.5 * (0.7 - torch_values(weights, 17, dueling)[3]) ** 2).backward()
    network.update(17, 3, 0.7, 0.25)
    for name, before in weights.items():
        expected = (before - 0.25 * before.grad).detach().numpy()
        assert np.abs(getattr(network, name) - expected).max() < 1e-12, name
        assert np.abs(before.grad.numpy()).max() > 0, name


def test_dueling_values_by_hand():
    config = c.Config(stream_units=1, hidden_units=1)
    network = c.Network(2, 3, True, config, np.random.default_rng(1))
    network.wv[:], network.bv[:], network.wa[:] = 0, 2, 0
    network.ba[:] = [1, 3, 5]
    assert network.values(0).tolist() == [0.0, 2.0, 4.0]
    network.ba += 7  # a constant in A changes nothing
    assert network.values(np.array([0, 1])).tolist() == [[0.0, 2.0, 4.0], [0.0, 2.0, 4.0]]


def test_sizes_of_the_two_networks():
    single, dueling = (c.Network(70, 10, d, CONFIG, np.random.default_rng(1)) for d in (False, True))
    count = lambda network: sum(t.numel() for t in as_torch(network).values())  # noqa: E731
    assert count(single) == 70 * 50 + 50 + 50 * 50 + 50 + 50 * 10 + 10
    assert count(dueling) == 70 * 50 + 50 + 50 * 50 + 50 + 25 + 1 + 25 * 10 + 10


def test_a_small_corridor_is_learned_by_both():
    config = c.Config(vertical=2, horizontal=2, epsilon=0.5, updates=6000)
    for actions in (5, 10):
        made = c.make_corridor(actions, config)
        for dueling in (False, True):
            network = c.Network(6, actions, dueling, config, np.random.default_rng(3))
            errors = c.evaluate_policy(made, network, config, np.random.default_rng(4))
            assert errors[0][0] == 1
            assert errors[-1] == (6000, c.squared_error(network, made))
            assert errors[-1][1] < 0.02 < errors[0][1]


def test_experiment_by_seed_and_bad_settings():
    small = c.Config(updates=300)
    first, again, other = (c.experiment(small, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.measures != other.measures
    assert {figure for figure, *_ in first.points} == {"actions_5", "actions_10", "actions_20"}
    assert first.measures["ratio_10"] == first.measures["single_10"] / first.measures["dueling_10"]
    for bad, message in (
        ({"updates": 0}, "must be 1 or more"),
        ({"fewest_actions": 3}, "the moves alone are 4"),
    ):
        with pytest.raises(UserError, match=message):
            c.experiment(c.Config(**bad), 1)
    with pytest.raises(UserError, match="diverged"), np.errstate(all="ignore"):
        c.experiment(c.Config(updates=3000, learning_rate=50.0), 1)
