"""A2C against hand-computed numbers, against NumPy in float64, against A3C, and stopped and resumed."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common.learning.layers import flatten_parameters
from common.papers import check_defaults, load_paper
from replications.a2c import train as script
from replications.a2c.train import (
    MLP,
    Config,
    Heads,
    RMSProp,
    a2c_loss,
    annealing,
    make_network,
    make_policy,
    n_step_returns,
    sample,
)
from replications.a3c import train as a3c
from tests.scripted import ScriptedEnvs
from tests.training import spaces, train, train_in_two

PAPER = Config()
TINY = {"training_steps": 900, "num_envs": 4, "log_period": 300}


def test_defaults_are_the_released_codes():
    assert check_defaults(load_paper("a2c")) == []
    assert load_paper("a2c").tasks["breakout"].published.value == 303


def test_returns_oracle_and_ends():
    """[9.91, 9.9, 11]; after an end nothing."""
    r, no = np.array([[1.0], [0], [2]]), np.zeros((3, 1), dtype=bool)
    assert n_step_returns(r, np.array([10.0]), no, 0.9)[:, 0] == pytest.approx([9.91, 9.9, 11])
    end = np.array([[False], [True], [False]])
    assert n_step_returns(r, np.array([10.0]), end, 0.9)[:, 0] == pytest.approx([1, 0, 11])


def test_returns_equal_a3cs_for_each_environment():
    rng = np.random.default_rng(0)
    r, last = rng.normal(size=(5, 3)), rng.normal(size=3)
    ours = n_step_returns(r, last, np.zeros((5, 3), dtype=bool), 0.99)
    for i in range(3):
        theirs = a3c.n_step_returns(torch.from_numpy(r[:, i]), float(last[i]), 0.99)
        assert ours[:, i] == pytest.approx(theirs.numpy())


def test_loss_by_hand():
    """Two states of two equal logits: log-probability -log 2, entropy log 2; returns 3 and 1, values 1 and 1."""
    heads = Heads(torch.zeros(2, 2), torch.ones(2))
    loss, shown = a2c_loss(heads, torch.tensor([0, 1]), torch.tensor([3.0, 1.0]), PAPER)
    policy, value, entropy = math.log(2) * 2 / 2, 4 / 2, math.log(2)
    assert shown.tolist() == pytest.approx([policy + 0.25 * value - 0.01 * entropy, policy, value, entropy])
    assert loss.item() == pytest.approx(shown[0].item())


def test_one_gradient_is_that_of_sums_divided_by_their_samples():
    """As A3C has them: the value gradient is half the error."""
    torch.manual_seed(0)
    logits, values = torch.randn(40, 6, requires_grad=True), torch.randn(40, requires_grad=True)
    actions, returns = torch.randint(0, 6, (40,)), torch.randn(40) * 3
    loss, _ = a2c_loss(Heads(logits, values), actions, returns, PAPER)
    ours = torch.autograd.grad(loss, (logits, values))
    error = returns - values
    logs = logits.log_softmax(1)
    policy = -(logs.gather(1, actions[:, None])[:, 0] * error.detach()).sum()
    entropy = -(logs.exp() * logs).sum()
    theirs = torch.autograd.grad(policy + 0.25 * (error**2).sum() - 0.01 * entropy, (logits, values))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine * 40, other)


def test_rmsprop_starts_at_one_has_epsilon_inside_and_clips_the_norm():
    module = torch.nn.Linear(2, 1, bias=False)
    optimiser = RMSProp(module, PAPER)
    before = optimiser.weights.clone()
    optimiser.gradient.copy_(torch.tensor([3.0, 4.0]))  # of norm 5: a tenth of it
    optimiser.step(0.1)
    d = np.array([0.3, 0.4])
    s = 0.99 + 0.01 * d**2
    np.testing.assert_allclose((before - optimiser.weights).numpy(), 0.1 * d / np.sqrt(s + 1e-5), rtol=1e-5)
    optimiser.mean_square.zero_()
    before = optimiser.weights.clone()
    optimiser.gradient.copy_(torch.tensor([0.01, 0.0]))  # below the clip
    optimiser.step(0.1)
    assert float(before[0] - optimiser.weights[0]) == pytest.approx(
        0.1 * 0.01 / math.sqrt(1e-6 + 1e-5), rel=1e-4
    )


def test_network_and_initial_weights():
    torch.manual_seed(0)
    net = make_network(PAPER, spaces(4, (84, 84)))
    assert sum(p.numel() for p in net.parameters()) == 1_686_180 + 513  # DQN's of 2015, and a value
    for layer, gain in ((net.torso[0], 2**0.5), (net.torso[7], 2**0.5), (net.policy, 1.0), (net.value, 1.0)):
        w = layer.weight.detach().flatten(1).double()
        product = w @ w.T if len(w) <= w.shape[1] else w.T @ w
        torch.testing.assert_close(
            product, gain**2 * torch.eye(len(product), dtype=torch.float64), atol=1e-4, rtol=0
        )
        assert not layer.bias.any()
    x = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    y = x.double() / 255
    for layer in net.torso:
        if isinstance(layer, torch.nn.Conv2d):
            y = torch.nn.functional.conv2d(y, layer.weight.double(), layer.bias.double(), layer.stride)
        elif isinstance(layer, torch.nn.Linear):
            y = y @ layer.weight.double().T + layer.bias.double()
        else:
            y = layer(y)
    heads = net(x)
    torch.testing.assert_close(heads.outputs.double(), y @ net.policy.weight.double().T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        heads.values.double(), (y @ net.value.weight.double().T)[:, 0], atol=1e-4, rtol=1e-4
    )


def test_annealing_reaches_zero():
    assert [annealing(s, PAPER) for s in (0, 2_500_000, 10_000_000)] == [1.0, 0.75, 0.0]


def test_actions_are_drawn_from_the_policy():
    heads = Heads(torch.log(torch.tensor([[0.2, 0.7, 0.1]])).repeat(6000, 1) + 3, torch.zeros(6000))
    counts = np.bincount(sample(heads, [np.random.default_rng(0)]), minlength=3) / 6000
    assert counts == pytest.approx([0.2, 0.7, 0.1], abs=0.02)
    own = sample(Heads(heads.outputs[:2], heads.values[:2]), [np.random.default_rng(i) for i in (5, 6)])
    alone = sample(Heads(heads.outputs[:1], heads.values[:1]), [np.random.default_rng(6)])
    assert own[1] == alone[0]


def test_what_is_evaluated_draws_from_the_policy_with_the_episodes_own_generators():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, states):
            return Heads(torch.log(torch.tensor([[0.2, 0.7, 0.1]])).repeat(len(states), 1), states[:, 0])

    policy, states = make_policy(Fixed(), PAPER), np.zeros((3000, 4), np.float32)
    actions = policy(states, [np.random.default_rng(i) for i in range(3000)])
    assert np.bincount(actions, minlength=3) / 3000 == pytest.approx([0.2, 0.7, 0.1], abs=0.03)
    assert (policy(states[:2], [np.random.default_rng(i) for i in (5, 6)]) == actions[5:7]).all()


class Spy:
    """Notes what each update of a training was given."""

    def __init__(self, monkeypatch):
        self.returns, self.losses, self.nets, self.rates = [], [], [], []
        n_step, loss, step = script.n_step_returns, script.a2c_loss, RMSProp.step

        def spied_returns(*arguments):
            self.returns.append((*(np.array(a) for a in arguments), n_step(*arguments)))
            return self.returns[-1][-1]

        def spied_loss(heads, actions, returns, config):
            self.losses.append((heads, actions, returns))
            return loss(heads, actions, returns, config)

        def spied_step(optimiser, rate):
            self.rates.append(rate)
            return step(optimiser, rate)

        monkeypatch.setattr(script, "n_step_returns", spied_returns)
        monkeypatch.setattr(script, "a2c_loss", spied_loss)
        monkeypatch.setattr(RMSProp, "step", spied_step)


def rows(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open()))


def test_a_training_on_breakout(tmp_path, monkeypatch):
    """Updates counted, lives end returns but not episodes, values bootstrap, the rate falls, scores are raw whole games."""
    spy = Spy(monkeypatch)
    folder = train("a2c", "breakout", tmp_path, TINY)
    run = json.loads((folder / "run.json").read_text())
    assert run["progress"]["updates"] == 900 // (4 * 5) == len(spy.losses)
    assert run["progress"]["agent_steps"] == 900
    assert spy.rates == pytest.approx([0.0007 * (1 - 20 * k / 900) for k in range(45)])
    ends = sum(int(r[2].sum()) for r in spy.returns)
    episodes = rows(folder / "episodes.csv")
    assert ends >= 5 * len(episodes) >= 5
    assert all(int(e["length"]) > 60 for e in episodes)
    for rewards, last, ended, discount, returns in spy.returns:
        assert discount == 0.99
        want = np.where(ended[-1], rewards[-1], rewards[-1] + 0.99 * last)
        assert returns[-1] == pytest.approx(want)
    (heads, actions, returns), values = spy.losses[7], spy.returns[7][-1]
    assert heads.values.shape == actions.shape == returns.shape == (20,)
    assert returns.numpy() == pytest.approx(
        values.reshape(-1), rel=1e-6
    )  # step by step, environments within a step
    curve = rows(folder / "curve.csv")
    assert [int(r["agent_steps"]) for r in curve] == [300, 600, 900]
    assert all(0 < float(r["entropy"]) <= math.log(4) + 1e-6 for r in curve)
    assert all(float(r["value_loss"]) > 0 and r["eval_score"] == "" for r in curve)


def value_of(net: dict, states: np.ndarray) -> np.ndarray:
    x = states
    for k in (1, 3):
        x = np.tanh(x @ net[f"value_torso.{k}.weight"].T + net[f"value_torso.{k}.bias"])
    return (x @ net["value.weight"].T + net["value.bias"])[:, 0]


@pytest.mark.parametrize(
    "settings", [{}, {"reward_clip": 2.0, "life_loss_terminal": False, "anneal_learning_rate": False}]
)
def test_every_update_is_given_what_the_environments_said(settings, tmp_path, monkeypatch):
    """On scripted environments whose games lose lives, end and are cut: states, actions, returns and the rate, in float64."""
    envs, given, forward = ScriptedEnvs(3, 4), [], MLP.forward
    monkeypatch.setattr(script, "make_envs", lambda *a, **k: envs)
    spy, loss = Spy(monkeypatch), script.a2c_loss
    asked = []

    def noting(net, states):
        asked.append(states.detach().double().numpy().copy())
        weights = {name: w.detach().double().numpy().copy() for name, w in net.state_dict().items()}
        heads = forward(net, states)
        if torch.is_grad_enabled():
            given.append({"states": asked[-1], "net": weights})
        return heads

    def spied_loss(heads, actions, returns, config):
        given[-1] |= {"actions": actions.numpy().copy(), "returns": returns.double().numpy().copy()}
        return loss(heads, actions, returns, config)

    monkeypatch.setattr(MLP, "forward", noting)
    monkeypatch.setattr(script, "a2c_loss", spied_loss)
    c = {
        "training_steps": 240,
        "num_envs": 3,
        "log_period": 15,
        "learning_rate": 0.01,
        "discount": 0.9,
        "stack": 2,
    } | settings
    folder = train("a2c", "cartpole", tmp_path, c)
    assert len(given) == 16
    seen, rewards = envs.stacked().astype(np.float64).reshape(-1, 3, 6), envs.column("rewards")
    done, lost, acted = envs.column("done"), envs.column("life_lost"), np.stack(envs.acted)
    assert envs.column("game_over").any()
    assert envs.column("truncated").any()
    assert (lost & ~done).any()
    ends = done | (lost & c.get("life_loss_terminal", True))
    bound = c.get("reward_clip", 1.0)
    assert (np.abs(rewards) > bound).any()
    curve = rows(folder / "curve.csv")
    for k, update in enumerate(given):
        rate = 0.01 * (1 - k / 16 if c.get("anneal_learning_rate", True) else 1)
        assert spy.rates[k] == pytest.approx(rate)
        assert float(curve[k]["learning_rate"]) == pytest.approx(rate)
        first = 5 * k
        np.testing.assert_allclose(
            update["states"].reshape(15, 6), seen[first : first + 5].reshape(15, 6), rtol=1e-6
        )
        assert (update["actions"] == acted[first : first + 5].reshape(-1)).all()
        following, returns = value_of(update["net"], seen[first + 5]), np.zeros((5, 3))
        for t in reversed(range(5)):
            following = rewards[first + t].clip(-bound, bound) + 0.9 * following * ~ends[first + t]
            returns[t] = following
        np.testing.assert_allclose(update["returns"], returns.reshape(-1), rtol=1e-4, atol=1e-5)


def test_update_against_float64_numpy():
    """Returns in, weights out: both branches of the network, the means, the clipped norm, three updates in a row."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    net = MLP(3, 5)
    optimiser = RMSProp(net, PAPER)
    slow = MLP(3, 5).double()
    slow.load_state_dict(net.state_dict())
    w, d = flatten_parameters(slow)
    s, clipped = np.ones(len(w)), 0
    for k in range(3):
        states, actions = rng.normal(size=(80, 1, 5)), rng.integers(3, size=80)
        returns = rng.normal(size=80) * (5 if k else 0.3)
        loss, _ = a2c_loss(
            net(torch.from_numpy(states).float()),
            torch.from_numpy(actions),
            torch.from_numpy(returns).float(),
            PAPER,
        )
        optimiser.gradient.zero_()
        loss.backward()
        optimiser.step(0.01)

        heads = slow(torch.from_numpy(states))
        logits, v = heads.outputs.detach().numpy(), heads.values.detach().numpy()
        pi = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        entropy = -(pi * np.log(pi)).sum(1, keepdims=True)
        d_logits = (
            (pi - np.eye(3)[actions]) * (returns - v)[:, None] + 0.01 * pi * (np.log(pi) + entropy)
        ) / 80
        d_v = 0.5 * (v - returns) / 80
        d.zero_()
        torch.autograd.backward(tuple(heads), (torch.from_numpy(d_logits), torch.from_numpy(d_v)))
        norm = math.sqrt(float((d**2).sum()))
        clipped += norm > 0.5
        g = d.numpy() * min(1, 0.5 / norm)
        s = 0.99 * s + 0.01 * g**2
        with torch.no_grad():
            w.sub_(torch.from_numpy(0.01 * g / np.sqrt(s + 1e-5)))
    assert clipped >= 1
    np.testing.assert_allclose(optimiser.weights.numpy(), w.detach().numpy(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("task", "settings"), [("breakout", TINY), ("cartpole", {"training_steps": 2000, "num_envs": 3})]
)
@pytest.mark.slow
def test_crashed_and_resumed_it_ends_with_the_same_bytes(task, settings, tmp_path):
    whole = train("a2c", task, tmp_path / "whole", settings)
    stop = int(settings["training_steps"] * 0.6)
    broken = train_in_two(stop, "a2c", task, tmp_path / "broken", settings)
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    one, two = (json.loads((folder / "run.json").read_text()) for folder in (whole, broken))
    assert one["progress"] == two["progress"]
    assert two["cost"]["attempts"] == 2
