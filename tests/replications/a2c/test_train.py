"""A2C against hand-computed numbers, against NumPy in float64, against A3C, and stopped and resumed."""

from __future__ import annotations

import csv
import dataclasses
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
    ScreenNetwork,
    a2c_loss,
    annealing,
    load_policy,
    n_step_returns,
    sample,
)
from replications.a3c import train as a3c
from tests.training import open_run, train

PAPER = Config()
TINY = {"training_steps": 900, "num_envs": 4, "log_period": 300}


def test_defaults_are_the_released_codes():
    assert check_defaults(load_paper("a2c")) == []
    assert load_paper("a2c").tasks["breakout"].published.value == 303


def test_returns_oracle_and_ends():
    """[9.91, 9.9, 11]; after a terminal nothing, after a time cap the value of the last observation."""
    r, none, no = np.array([[1.0], [0], [2]]), np.zeros((3, 1)), np.zeros((3, 1), dtype=bool)
    assert n_step_returns(r, np.array([10.0]), no, no, none, 0.9)[:, 0] == pytest.approx([9.91, 9.9, 11])
    end = np.array([[False], [True], [False]])
    assert n_step_returns(r, np.array([10.0]), end, end, none, 0.9)[:, 0] == pytest.approx([1, 0, 11])
    cut = np.array([[0.0], [5.0], [0.0]])
    assert n_step_returns(r, np.array([10.0]), no, end, cut, 0.9)[:, 0] == pytest.approx(
        [1 + 0.9 * 4.5, 4.5, 11]
    )


def test_returns_equal_a3cs_for_each_environment():
    rng = np.random.default_rng(0)
    r, last = rng.normal(size=(5, 3)), rng.normal(size=3)
    no = np.zeros((5, 3), dtype=bool)
    ours = n_step_returns(r, last, no, no, np.zeros((5, 3)), 0.99)
    for i in range(3):
        theirs = a3c.n_step_returns(torch.from_numpy(r[:, i]), float(last[i]), 0.99)
        assert ours[:, i] == pytest.approx(theirs.numpy())


def test_one_gradient_is_a3cs_sum_divided_by_its_samples():
    """Given A3C's value gradient 1 in place of the authors' 0.5."""
    torch.manual_seed(0)
    logits, values = torch.randn(40, 6, requires_grad=True), torch.randn(40, requires_grad=True)
    actions, returns = torch.randint(0, 6, (40,)), torch.randn(40) * 3
    loss, shown = a2c_loss(Heads(logits, values), actions, returns, PAPER)
    ours = torch.autograd.grad(loss, (logits, values))
    config = dataclasses.replace(a3c.Config(), value_gradient=1.0)
    policy_loss, value_loss, entropy = a3c.a3c_losses(logits, values, actions, returns, config)
    theirs = torch.autograd.grad(policy_loss + value_loss - 0.01 * entropy, (logits, values))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine * 40, other)
    assert shown.tolist()[1:] == pytest.approx(
        [policy_loss.item() / 40, value_loss.item() / 20, entropy.item() / 40], rel=1e-4
    )


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
    net = ScreenNetwork(4, 4)
    assert sum(p.numel() for p in net.parameters()) == 1_686_180 + 513  # DQN's of 2015, and a value
    for layer, gain in ((net.torso[0], 2**0.5), (net.torso[7], 2**0.5), (net.policy, 0.01), (net.value, 1.0)):
        w = layer.weight.detach().flatten(1).double()
        product = w @ w.T if len(w) <= w.shape[1] else w.T @ w
        torch.testing.assert_close(
            product, gain**2 * torch.eye(len(product), dtype=torch.float64), atol=1e-4, rtol=0
        )
        assert not layer.bias.any()
    x = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    y = torch.nn.functional.conv2d(x.float() / 255, net.torso[0].weight, net.torso[0].bias, stride=4)
    assert torch.allclose(net.torso[0](x), y, atol=1e-5)
    assert y.shape[1:] == (32, 20, 20)


def test_annealing_reaches_zero():
    assert [annealing(s, PAPER) for s in (0, 2_500_000, 10_000_000)] == [1.0, 0.75, 0.0]


def test_actions_are_drawn_from_the_policy():
    heads = Heads(torch.log(torch.tensor([[0.2, 0.7, 0.1]])).repeat(6000, 1) + 3, torch.zeros(6000))
    counts = np.bincount(sample(heads, [np.random.default_rng(0)]), minlength=3) / 6000
    assert counts == pytest.approx([0.2, 0.7, 0.1], abs=0.02)
    own = sample(Heads(heads.outputs[:2], heads.values[:2]), [np.random.default_rng(i) for i in (5, 6)])
    alone = sample(Heads(heads.outputs[:1], heads.values[:1]), [np.random.default_rng(6)])
    assert own[1] == alone[0]


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
    terminals = sum(int(r[2].sum()) for r in spy.returns)
    episodes = rows(folder / "episodes.csv")
    assert terminals >= 5 * len(episodes) >= 5
    assert all(int(e["length"]) > 60 for e in episodes)
    for rewards, last, ended, ends, _, discount, returns in spy.returns:
        assert discount == 0.99
        assert (ended == ends).all()
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


def test_states_actions_and_returns_belong_together(tmp_path, monkeypatch):
    """The update's forward pass sees the states the actions were drawn in: their first logits are those of acting."""
    seen, forward = [], MLP.forward
    spy = Spy(monkeypatch)

    def noting(net, states):
        heads = forward(net, states)
        seen.append((states.detach().clone(), heads.outputs.detach().clone()))
        return heads

    monkeypatch.setattr(MLP, "forward", noting)
    train("a2c", "cartpole", tmp_path, {"training_steps": 240, "num_envs": 3, "log_period": 60})
    size = 5 + 1 + 1  # of an update: five times acting, the last values, learning
    assert len(seen) == 16 * size
    for k in range(16):
        acting, learning = seen[k * size : k * size + 5], seen[k * size + 6]
        assert torch.equal(torch.cat([s for s, _ in acting]), learning[0])
        torch.testing.assert_close(torch.cat([o for _, o in acting]), learning[1], rtol=1e-5, atol=1e-6)
    assert len(spy.losses) == 16


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
        d_v = (v - returns) / 80
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


def test_a_time_cap_is_bootstrapped_through_and_a_fall_is_not(tmp_path, monkeypatch):
    spy = Spy(monkeypatch)
    init = script.GymEnvs.__init__

    def short(envs, *arguments):
        init(envs, *arguments)
        envs.max_steps = 12

    monkeypatch.setattr(script.GymEnvs, "__init__", short)
    train("a2c", "cartpole", tmp_path, {"training_steps": 400, "num_envs": 2, "log_period": 100})
    capped = fallen = 0
    for rewards, _, terminals, ends, cut_values, _, returns in spy.returns:
        for t, i in zip(*np.nonzero(ends), strict=True):
            if terminals[t, i]:
                fallen += 1
                assert returns[t, i] == rewards[t, i]
            else:
                capped += 1
                assert cut_values[t, i] != 0
                assert returns[t, i] == pytest.approx(rewards[t, i] + 0.99 * cut_values[t, i])
    assert capped > 3
    assert fallen > 3


@pytest.mark.parametrize(
    ("task", "settings"), [("breakout", TINY), ("cartpole", {"training_steps": 2000, "num_envs": 3})]
)
@pytest.mark.slow
def test_crashed_and_resumed_it_ends_with_the_same_bytes(task, settings, tmp_path):
    whole = train("a2c", task, tmp_path / "whole", settings)
    run, module, config, _ = open_run("a2c", task, tmp_path / "broken", settings)
    tick = run.tick

    def crash(at):
        tick(at)
        if at.agent_steps > settings["training_steps"] * 0.6:
            run.save()
            raise KeyboardInterrupt

    run.tick = crash
    with pytest.raises(KeyboardInterrupt):
        module.train(config, run)
    run.close()
    broken = train("a2c", task, tmp_path / "broken", settings)
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    one, two = (json.loads((folder / "run.json").read_text()) for folder in (whole, broken))
    assert one["progress"] == two["progress"]
    assert two["cost"]["attempts"] == 2


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="policy"):
        load_policy(PAPER, 4, (84, 84), ScreenNetwork(6, 4).state_dict(), torch.device("cpu"))
