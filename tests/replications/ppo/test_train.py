"""PPO (2017) against hand-computed numbers, against NumPy in float64, and in tiny trainings whose numbers are looked at."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.papers import check_defaults, load_paper
from replications.ppo import train as ppo
from replications.ppo.policies import Heads, divergence, draw, log_probs_and_entropy, sample
from replications.ppo.train import (
    Config,
    Minibatch,
    ScreenNetwork,
    adam,
    annealing,
    gae,
    make_network,
    make_policy,
    metrics_of,
    penalty_change,
    ppo_loss,
    surrogate,
    update,
)
from tests.training import spaces, train

PAPER = Config()
TINY = {"training_steps": 1024, "num_envs": 2, "rollout_steps": 64, "minibatch_size": 32, "log_period": 256}


def test_defaults_are_the_papers():
    assert check_defaults(load_paper("ppo")) == []


def test_annealing_and_the_number_of_iterations():
    assert [annealing(step, PAPER) for step in (0, 2_500_000, 10_000_000)] == [1.0, 0.75, 0.0]
    assert PAPER.training_steps // (PAPER.num_envs * PAPER.rollout_steps) == 9765


# --- networks ---


def test_small_network_is_the_2013_one():
    net = ScreenNetwork(4, 4, "small")
    assert (
        sum(p.numel() for p in net.parameters()) == 677_429
    )  # one layer for four actions, one for the value
    assert sum(p.numel() for p in ScreenNetwork(4, 4, "nature").parameters()) == 1_686_180 + 513


@pytest.mark.parametrize("kind", ["small", "nature"])
def test_network_equals_plain_convolutions_in_float64(kind):
    torch.manual_seed(0)
    net = make_network(dataclasses.replace(PAPER, network=kind), spaces(6, (84, 84)))
    states = torch.randint(0, 256, (9, 4, 84, 84), dtype=torch.uint8)
    x = states.double() / 255
    for layer in net.torso:
        if isinstance(layer, torch.nn.Conv2d):
            x = torch.nn.functional.conv2d(x, layer.weight.double(), layer.bias.double(), layer.stride)
        elif isinstance(layer, torch.nn.Linear):
            x = x @ layer.weight.double().T + layer.bias.double()
        else:
            x = layer(x)
    heads = net(states)
    torch.testing.assert_close(heads.outputs.double(), x @ net.policy.weight.double().T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        heads.values.double(), (x @ net.value.weight.double().T)[:, 0], atol=1e-5, rtol=1e-4
    )


def test_initial_weights_are_those_of_the_first_release():
    """Dense layers: each unit's weights of norm 1, 0.01 for the policy's last; convolutions uniform within the root."""
    torch.manual_seed(0)
    net = make_network(PAPER, spaces(6, (84, 84)))
    for layer, norm in ((net.torso[5], 1.0), (net.policy, 0.01), (net.value, 1.0)):
        torch.testing.assert_close(layer.weight.detach().norm(dim=1), torch.full((len(layer.weight),), norm))
        assert not layer.bias.any()
    for layer, fans in ((net.torso[0], 64 * 4 + 64 * 16), (net.torso[2], 16 * 16 + 16 * 32)):
        bound = math.sqrt(6 / fans)
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    flat = net.torso[5].weight.detach().flatten() * math.sqrt(2592)
    assert (flat.abs() < 1).float().mean().item() == pytest.approx(
        0.683, abs=0.01
    )  # of a normal distribution


def test_initial_weights_of_ppo2_are_orthogonal_with_their_gains():
    torch.manual_seed(0)
    net = make_network(
        dataclasses.replace(PAPER, initial_weights="orthogonal", network="nature"), spaces(6, (84, 84))
    )
    for layer, gain in ((net.policy, 0.01), (net.value, 1.0), (net.torso[0], 2**0.5), (net.torso[7], 2**0.5)):
        weight = layer.weight.detach().flatten(1)
        torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), atol=1e-4, rtol=1e-4)


# --- advantages ---


def slow_gae(rewards, values, ends, discount, lam):
    """The double sum of Equation 11, one environment, step by step; values has one row more."""
    result = []
    for t in range(len(rewards)):
        total, weight = 0.0, 1.0
        for k in range(t, len(rewards)):
            total += weight * (rewards[k] + (0.0 if ends[k] else discount * values[k + 1]) - values[k])
            if ends[k]:
                break
            weight *= discount * lam
        result.append(total)
    return result


def test_gae_hand_computed():
    """Three steps, the second ends the game: delta = [1 + .5 x 2 - 1, 2 - 2, 3 + .5 x 4 - 3] = [1, 0, 2]; lambda .5."""
    rewards, values = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [3.0], [4.0]])
    over = np.array([[False], [True], [False]])
    assert gae(rewards, values, over, 0.5, 0.5)[:, 0].tolist() == [1.0, 0.0, 2.0]
    # nothing ends: delta = [1, 1.5, 2], A = [1 + .25 x 2, 1.5 + .25 x 2, 2]
    assert gae(rewards, values, over & False, 0.5, 0.5)[:, 0].tolist() == [1.5, 2.0, 2.0]


def test_gae_equals_the_double_loop_and_its_two_limits():
    rng = np.random.default_rng(0)
    rewards, values, ends = rng.normal(size=(40, 3)), rng.normal(size=(41, 3)), rng.random((40, 3)) < 0.2
    for lam in (0.0, 0.95, 1.0):
        fast = gae(rewards, values, ends, 0.99, lam)
        for n in range(3):
            slow = slow_gae(rewards[:, n], values[:, n], ends[:, n], 0.99, lam)
            np.testing.assert_allclose(fast[:, n], slow, atol=1e-12)
    monte_carlo, value = np.zeros((40, 3)), values[-1]
    for t in reversed(range(40)):
        value = rewards[t] + 0.99 * value
        monte_carlo[t] = value - values[t]
    np.testing.assert_allclose(gae(rewards, values, ends & False, 0.99, 1.0), monte_carlo, atol=1e-12)


# --- objective ---


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "gradient"),
    [(1.3, 1.0, 1.2, 0.0), (1.3, -1.0, -1.3, -1.0), (0.7, -1.0, -0.8, 0.0)],
)
def test_clipped_surrogate(ratio, advantage, gain, gradient):
    r = torch.tensor([ratio], requires_grad=True)
    out = surrogate(r, torch.tensor([advantage]), "clip", 0.2)
    out.sum().backward()
    assert (out.item(), r.grad.item()) == (pytest.approx(gain), gradient)
    assert surrogate(r.detach(), torch.tensor([advantage]), "none", 0.2).item() == pytest.approx(
        ratio * advantage
    )


def random_minibatch(
    continuous: bool, size: int = 12, actions: int = 4
) -> tuple[Heads, Minibatch, torch.Tensor | None]:
    g = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    log_std = normal(actions) * 0.3 if continuous else None
    old_log_std = log_std + 0.05 * normal(actions) if continuous else None
    heads = Heads(normal(size, actions), normal(size), log_std)
    taken = normal(size, actions) if continuous else torch.randint(actions, (size,), generator=g)
    near = Heads(heads.outputs + 0.05 * normal(size, actions), heads.values, old_log_std)
    old = log_probs_and_entropy(near, taken)[0] + 0.05 * normal(size)
    batch = Minibatch(
        torch.zeros(size),
        taken,
        normal(size),
        normal(size),
        old,
        heads.values + 0.3 * normal(size),
        near.outputs,
    )
    return heads, batch, old_log_std


def numpy_loss(
    heads: Heads, batch: Minibatch, old_log_std, clip: float, beta: float, c: Config
) -> dict[str, float]:
    out, values = heads.outputs.double().numpy(), heads.values.double().numpy()
    a, adv, returns = batch.actions.numpy(), batch.advantages.double().numpy(), batch.returns.double().numpy()
    old_out, old_values = batch.outputs.double().numpy(), batch.values.double().numpy()
    if heads.log_std is None:
        p = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        q = np.exp(old_out) / np.exp(old_out).sum(1, keepdims=True)
        log_probs = np.log(p[np.arange(len(a)), a])
        entropy = -(p * np.log(p)).sum(1)
        kl = (q * np.log(q / p)).sum(1)
    else:
        s, t = np.exp(heads.log_std.double().numpy()), np.exp(old_log_std.double().numpy())
        log_probs = np.log(np.exp(-((a - out) ** 2) / (2 * s**2)) / np.sqrt(2 * np.pi * s**2)).sum(1)
        entropy = np.full(len(a), 0.5 * np.log(2 * np.pi * np.e * s**2).sum())
        kl = (np.log(s / t) + (t**2 + (old_out - out) ** 2) / (2 * s**2) - 0.5).sum(1)
    if c.normalise_advantages == "minibatch":
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    ratio = np.exp(log_probs - batch.log_probs.double().numpy())
    gain = ratio * adv
    if c.objective == "clip":
        gain = np.minimum(gain, np.clip(ratio, 1 - clip, 1 + clip) * adv)
    gain = gain.mean() - (beta * kl.mean() if c.objective.endswith("_kl") else 0)
    error = (values - returns) ** 2
    if c.value_clip:
        error = np.maximum(error, (old_values + np.clip(values - old_values, -clip, clip) - returns) ** 2)
    loss = -gain + c.value_coefficient * error.mean() - c.entropy_coefficient * entropy.mean()
    fraction = (np.abs(ratio - 1) > clip).mean()
    return {
        "loss": loss,
        "policy": -gain,
        "value": error.mean(),
        "entropy": entropy.mean(),
        "clipped": fraction,
    }


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {}, {"objective": "none"}, {"objective": "adaptive_kl"}, {"objective": "fixed_kl"}, {"entropy_coefficient": 0.0}, {"value_clip": True, "value_coefficient": 0.25},
        {"normalise_advantages": "minibatch"},
    ],
)  # fmt: skip
def test_loss_equals_numpy_in_float64(continuous, changes):
    config = dataclasses.replace(PAPER, **changes)
    heads, batch, old_log_std = random_minibatch(continuous)
    loss, *parts = ppo_loss(heads, batch, old_log_std, 0.1, 0.7, config)
    shown = metrics_of(loss, *parts, 0.1)
    expected = numpy_loss(heads, batch, old_log_std, 0.1, 0.7, config)
    assert 0 < expected["clipped"] < 1  # or nothing was tested
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    for number, name in zip(shown[[0, 1, 2, 3, 5]].tolist(), expected, strict=True):
        assert number == pytest.approx(expected[name], rel=1e-5), name


def test_gradient_of_the_loss_by_finite_differences():
    heads, batch, _ = random_minibatch(False)
    outputs = heads.outputs.double().requires_grad_()
    values = heads.values.double().requires_grad_()
    doubles = Minibatch(*(x.double() if x.is_floating_point() else x for x in batch))
    assert torch.autograd.gradcheck(
        lambda o, v: ppo_loss(Heads(o, v), doubles, None, 0.1, 0, PAPER)[0], (outputs, values)
    )


def test_the_same_policy_has_ratio_one_and_no_divergence():
    heads, batch, _ = random_minibatch(False)
    same = batch._replace(log_probs=log_probs_and_entropy(heads, batch.actions)[0], outputs=heads.outputs)
    parts = ppo_loss(heads, same, None, 0.1, 1.0, dataclasses.replace(PAPER, objective="adaptive_kl"))
    metrics = metrics_of(*parts, 0.1)
    assert metrics[1].item() == pytest.approx(-batch.advantages.mean().item(), abs=1e-6)
    assert metrics[4:].tolist() == [0, 0]
    assert divergence(heads, heads).abs().max() < 1e-6


def test_penalty_is_halved_and_doubled_outside_its_band():
    assert [penalty_change(kl, 0.01) for kl in (0.0066, 0.0067, 0.01, 0.0149, 0.0151)] == [0.5, 1, 1, 1, 2]


# --- optimiser, sampling, moments ---


def test_updates_equal_adam_in_float64_and_clip_the_norm_of_the_whole_gradient():
    """Twelve updates with a rate that changes; the gradient by a float64 twin of the network."""
    torch.manual_seed(0)
    config = dataclasses.replace(PAPER, network="mlp", stack=1, adam_epsilon=1e-5, gradient_norm_clip=8.0)
    net = make_network(config, spaces(4, (3,)))
    twin = copy.deepcopy(net).double()
    optimiser, clipped = adam(net, config, graph=False), 0
    w = [p.detach().numpy().copy() for p in twin.parameters()]
    m, v = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    for k in range(1, 13):
        _, batch, _ = random_minibatch(False)
        batch = batch._replace(
            states=torch.randn(12, 3), returns=batch.returns * (0.1 if k % 3 else 10), advantages=batch.advantages / 9
        )  # fmt: skip
        rate = 0.01 / k
        update(net, optimiser, batch, None, (rate, 0.1, 1.0), config)
        doubles = Minibatch(*(x.double() if x.is_floating_point() else x for x in batch))
        loss = ppo_loss(twin(doubles.states), doubles, None, 0.1, 1.0, config)[0]
        d = [g.numpy() for g in torch.autograd.grad(loss, list(twin.parameters()))]
        norm = math.sqrt(sum((x**2).sum() for x in d))
        clipped += norm > 8
        for i, (g, p) in enumerate(zip(d, twin.parameters(), strict=True)):
            g = g * min(1, 8 / norm)
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            w[i] = w[i] - rate * (m[i] / (1 - 0.9**k)) / (np.sqrt(v[i] / (1 - 0.999**k)) + 1e-5)
            p.data.copy_(torch.from_numpy(w[i]))
    assert 0 < clipped < 12
    for mine, slow in zip(net.parameters(), w, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), slow, rtol=1e-3, atol=2e-5)


def test_the_optimiser_moves_the_weights_that_the_network_uses():
    """They are one vector; a step of it is a step of every layer, convolutions too."""
    net = make_network(PAPER, spaces(4, (84, 84)))
    before = [p.detach().clone() for p in net.parameters()]
    _, batch, _ = random_minibatch(False)
    batch = batch._replace(states=torch.randint(0, 256, (12, 4, 84, 84), dtype=torch.uint8))
    update(net, adam(net, PAPER, graph=False), batch, None, (0.01, 0.1, 1.0), PAPER)
    assert all(not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_actions_are_drawn_from_the_policy():
    rng = np.random.default_rng(0)
    logits = np.array([[0.0, 1.0, -1.0, 2.0]], dtype=np.float32)
    actions = sample(np.repeat(logits, 4000, axis=0), draw(rng, (4000,), None))
    expected = 4000 * torch.from_numpy(logits[0]).softmax(0).numpy()
    chi_square = ((np.bincount(actions, minlength=4) - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # 99.9 % of the time with 3 degrees of freedom
    means = np.array([[1.0, -2.0]], dtype=np.float32)
    gauss = sample(np.repeat(means, 4000, axis=0), draw(rng, (4000,), torch.tensor([0.0, -1.0])))
    assert gauss.dtype == np.float32
    np.testing.assert_allclose(gauss.mean(0), [1, -2], atol=0.07)
    np.testing.assert_allclose(gauss.std(0), [1, math.exp(-1)], rtol=0.05)


@pytest.mark.parametrize("continuous", [False, True])
def test_what_is_evaluated_draws_its_actions_with_a_generator_for_each_state(continuous):
    """Not the mean, nor the likeliest: as often as the network says, and independent of the other states."""
    torch.manual_seed(0)
    config = dataclasses.replace(PAPER, network="mlp", stack=1)
    net = make_network(config, spaces(2, (3,), continuous))
    with torch.no_grad():
        net.policy.bias.copy_(torch.tensor([0.3, -0.4]))
        if continuous:
            net.log_std.copy_(torch.tensor([0.0, -1.0]))
    policy, states = make_policy(net, config), np.zeros((500, 1, 3), np.float32)
    rngs = [np.random.default_rng(i) for i in range(500)]
    actions = np.concatenate([policy(states, rngs) for _ in range(8)])
    if continuous:
        np.testing.assert_allclose(actions.mean(0), [0.3, -0.4], atol=0.06)
        np.testing.assert_allclose(actions.std(0), [1, math.exp(-1)], rtol=0.05)
    else:
        assert actions.mean() == pytest.approx(1 / (1 + math.exp(0.7)), abs=0.03)
    own = policy(states[:2], [np.random.default_rng(5), np.random.default_rng(6)])
    alone = policy(states[:1], [np.random.default_rng(6)])
    np.testing.assert_allclose(own[1], alone[0], rtol=1e-6)


def test_log_probability_of_a_vector_action_is_summed():
    """Two standard normal dimensions at their means: 2 x log(1 / sqrt(2 pi)); entropy 2 x 1.4189."""
    heads = Heads(torch.zeros(1, 2), torch.zeros(1), torch.zeros(2))
    log_probs, entropy = log_probs_and_entropy(heads, torch.zeros(1, 2))
    assert log_probs.item() == pytest.approx(-1.837877)
    assert entropy.item() == pytest.approx(2 * 1.418939)


# --- tiny trainings ---


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_training_on_breakout(tmp_path, monkeypatch):
    """Screens through the real emulator: the first update of an iteration meets the very policy that played."""
    rollouts, first, real_gae, real_update = [], [], ppo.gae, ppo.update

    def spy_gae(*arguments):
        rollouts.append(arguments)
        return real_gae(*arguments)

    def spy_update(net, optimiser, batch, old_log_std, rates, config):
        parts = real_update(net, optimiser, batch, old_log_std, rates, config)
        first.append((float(parts[4].detach().abs().max()), rates, batch.states))
        return parts

    monkeypatch.setattr(ppo, "gae", spy_gae)
    monkeypatch.setattr(ppo, "update", spy_update)
    folder = train("ppo", "breakout", tmp_path, TINY)
    run = json.loads((folder / "run.json").read_text())
    assert run["progress"]["updates"] == len(first) == 8 * 3 * 4  # iterations x epochs x minibatches
    assert max(largest for largest, _, _ in first[::12]) < 1e-4  # log ratios
    assert max(largest for largest, _, _ in first[11::12]) > 1e-3
    assert [rates for _, rates, _ in first[::12]] == [
        pytest.approx((0.00025 * (1 - k / 8), 0.1 * (1 - k / 8), 1.0)) for k in range(8)
    ]
    rates = [float(row["learning_rate"]) for row in rows(folder / "curve.csv")]
    assert rates == pytest.approx([0.00025 * (1 - k / 8) for k in (1, 3, 5, 7)])
    # lives end episodes for learning, and scores are the game's own
    over = sum(int(arguments[2].sum()) for arguments in rollouts)
    assert over > run["progress"]["episodes"] >= 1
    rewards = np.concatenate([arguments[0] for arguments in rollouts])
    assert set(np.unique(rewards)) <= {-1.0, 0.0, 1.0}
    scores = [float(row["score"]) for row in rows(folder / "episodes.csv")]
    assert len(scores) == run["progress"]["episodes"]
    assert all(score == int(score) >= 0 for score in scores)
    # at a game's start the first frame stands in the whole stack
    assert any((states[:, 0] == states[:, 3]).flatten(1).all(dim=1).any() for _, _, states in first[:4])


def test_a_minibatch_that_does_not_divide_is_refused_before_any_time_is_spent(tmp_path):
    with pytest.raises(
        UserError, match=r"minibatch_size 33 does not divide the 128 .*num_envs 2 x rollout_steps 64"
    ):
        train("ppo", "cartpole", tmp_path, TINY | {"minibatch_size": 33})
