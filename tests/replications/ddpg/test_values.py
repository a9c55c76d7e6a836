"""Figure 3: which value stands beside which return."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common import papers
from common.environments.vector import ReplayableEnvs
from common.errors import UserError
from replications.ddpg import values as v
from replications.ddpg.train import Config, make_network


class Counting(ReplayableEnvs):
    """Its observation is the number of the step and of the environment; so is its reward."""

    reseed_every = 1

    def __init__(self, num_envs: int, cap: int, ends: int = 10**9):
        super().__init__(num_envs, 0, cap)
        self.obs_shape, self.obs_dtype, self.num_actions = (2,), np.dtype(np.float32), 1
        self.action_shape, self.action_dtype = (1,), np.dtype(np.float32)
        self.action_bounds = np.array([-2], np.float32), np.array([2], np.float32)
        self.t, self.ends, self.acted = 0, ends, []

    def _obs(self):
        return np.stack([np.full(self.num_envs, self.t), np.arange(self.num_envs)], 1).astype(np.float32)

    def _reset(self, mask, seeds):
        return self._obs()

    def _send(self, actions):
        self.acted.append(actions)

    def _recv(self):
        rewards = self.t + 10.0 * np.arange(self.num_envs)
        self.t += 1
        return self._obs(), rewards, np.full(self.num_envs, self.t >= self.ends), self._never


def test_each_value_stands_beside_the_return_that_followed():
    torch.manual_seed(0)
    envs = Counting(3, 4)
    nets = make_network(Config(), envs)
    values, returns = v.values_and_returns(nets, envs, tail=2, discount=0.5)
    assert values.shape == returns.shape == (12,)
    assert len(envs.acted) == 6
    k = 0
    for t in range(4):
        for n in range(3):
            assert returns[k] == sum(0.5 ** (u - t) * (u + 10 * n) for u in range(t, 6))
            state = torch.tensor([[[float(t), float(n)]]])
            action = nets.actor(state)
            assert values[k] == pytest.approx(nets.critic(state, action).item(), abs=1e-6)
            assert envs.acted[t][n] == pytest.approx(2 * action.item(), abs=1e-6)
            k += 1
    assert values.std() > 0


def test_an_end_of_its_own_is_refused():
    envs = Counting(1, 4, ends=3)
    with pytest.raises(UserError, match="an end of its own"):
        v.values_and_returns(make_network(Config(), envs), envs, 2, 0.9)


def test_measures():
    returns = np.array([-300.0, -100.0, -200.0, 0.0])
    exact = v.measures_of(returns, returns)
    assert (exact["correlation"], exact["bias"], exact["error"]) == (pytest.approx(1), 0, 0)
    high = v.measures_of(returns + 50, returns)
    assert (high["correlation"], high["bias"]) == (pytest.approx(1), pytest.approx(50 / returns.std()))
    assert v.measures_of(-returns, returns)["correlation"] == pytest.approx(-1)


def test_points_are_means_over_returns_alike():
    points = v.points_of(np.array([-8.0, -6.0, -250.0]), np.array([-5.0, -15.0, -390.0]))
    assert [(x, y) for _, name, x, y in points if name == "equal"] == [(x, x) for x in np.arange(-390, 0, 20)]
    assert [(x, y) for _, name, x, y in points if name != "equal"] == [(-390, -250), (-10, -7)]


def test_an_experiment_trains_and_measures():
    found = v.experiment(v.Config(training_steps=80, episodes=2, tail=3), 1)
    assert set(found.measures) == {"correlation", "bias", "error", "mean_value", "mean_return"}
    assert found.measures["mean_return"] < -20  # it has learned nothing
    again = v.experiment(v.Config(training_steps=80, episodes=2, tail=3), 1)
    assert again.measures == found.measures


@pytest.mark.parametrize(("name", "value"), [("episodes", 0), ("tail", -1), ("training_steps", 0)])
def test_bad_settings_are_named(name, value):
    with pytest.raises(UserError, match=f"{name}: {value} is not allowed"):
        papers.resolve("ddpg", None, "values", "paper", {name: value})
