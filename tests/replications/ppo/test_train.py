"""PPO (2017) against hand-computed numbers, against NumPy in float64, and in tiny trainings whose numbers are looked at."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from common.papers import check_defaults, load_paper
from replications.ppo import train as ppo
from replications.ppo.train import (
    MLP,
    Adam,
    Config,
    Heads,
    Minibatch,
    ScreenNetwork,
    annealing,
    divergence,
    gae,
    load_policy,
    log_probs_and_entropy,
    penalty_change,
    ppo_loss,
    sample,
    surrogate,
)
from tests.training import train

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
def test_network_equals_plain_convolutions(kind):
    torch.manual_seed(0)
    net = ScreenNetwork(6, 4, kind)
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
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


def test_initial_weights_are_orthogonal_with_their_gains():
    torch.manual_seed(0)
    net = MLP(3, 11, continuous=True)
    for weight, gain in ((net.policy.weight, 0.01), (net.value.weight, 1.0)):
        square = weight @ weight.T
        torch.testing.assert_close(square, gain**2 * torch.eye(len(square)), atol=1e-6, rtol=1e-4)
    first = net.policy_torso[0].weight
    torch.testing.assert_close(first.T @ first, 2 * torch.eye(11), atol=1e-5, rtol=1e-4)
    assert net.log_std.tolist() == [0, 0, 0]


# --- advantages ---


def slow_gae(rewards, values, last, terminals, ends, cuts, discount, lam):
    """The double sum of Equation 11, one environment, step by step."""
    length = len(rewards)
    result = []
    for t in range(length):
        total, weight = 0.0, 1.0
        for k in range(t, length):
            if terminals[k]:
                following = 0.0
            elif ends[k]:
                following = cuts[k]
            else:
                following = values[k + 1] if k + 1 < length else last
            total += weight * (rewards[k] + discount * following - values[k])
            if ends[k]:
                break
            weight *= discount * lam
        result.append(total)
    return result


def test_gae_hand_computed():
    """Three steps, the second ends the game: delta = [1 + .5 x 2 - 1, 2 - 2, 3 + .5 x 4 - 3] = [1, 0, 2]; lambda .5."""
    rewards, values = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [3.0]])
    over = np.array([[False], [True], [False]])
    advantages = gae(rewards, values, np.array([4.0]), over, over, np.zeros((3, 1)), 0.5, 0.5)
    assert advantages[:, 0].tolist() == [1.0, 0.0, 2.0]
    cut = gae(rewards, values, np.array([4.0]), over & False, over, np.array([[0.0], [6.0], [0.0]]), 0.5, 0.5)
    assert cut[:, 0].tolist() == [1.0 + 0.25 * 3.0, 3.0, 2.0]  # delta_1 = 2 + .5 x 6 - 2


def test_gae_equals_the_double_loop_and_its_two_limits():
    rng = np.random.default_rng(0)
    rewards, values, last = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)), rng.normal(size=3)
    terminals = rng.random((40, 3)) < 0.1
    ends = terminals | (rng.random((40, 3)) < 0.1)
    cuts = rng.normal(size=(40, 3))  # at a game over too: another environment may meet its cap at that step
    for lam in (0.0, 0.95, 1.0):
        fast = gae(rewards, values, last, terminals, ends, cuts, 0.99, lam)
        for n in range(3):
            slow = slow_gae(
                rewards[:, n], values[:, n], last[n], terminals[:, n], ends[:, n], cuts[:, n], 0.99, lam
            )
            np.testing.assert_allclose(fast[:, n], slow, atol=1e-12)
    no = np.zeros((40, 3), bool)
    monte_carlo, value = np.zeros((40, 3)), last
    for t in reversed(range(40)):
        value = rewards[t] + 0.99 * value
        monte_carlo[t] = value - values[t]
    np.testing.assert_allclose(
        gae(rewards, values, last, no, no, np.zeros((40, 3)), 0.99, 1.0), monte_carlo, atol=1e-12
    )


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
    gain = gain.mean() - (beta * kl.mean() if c.objective == "adaptive_kl" else 0)
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
        {}, {"objective": "none"}, {"objective": "adaptive_kl"}, {"value_clip": True, "value_coefficient": 0.25},
        {"normalise_advantages": "minibatch"},
    ],
)  # fmt: skip
def test_loss_equals_numpy_in_float64(continuous, changes):
    config = dataclasses.replace(PAPER, **changes)
    heads, batch, old_log_std = random_minibatch(continuous)
    loss, shown = ppo_loss(heads, batch, old_log_std, 0.1, 0.7, config)
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


def test_nothing_flows_into_the_old_policy_and_the_same_policy_has_ratio_one():
    heads, batch, _ = random_minibatch(False)
    same = batch._replace(log_probs=log_probs_and_entropy(heads, batch.actions)[0], outputs=heads.outputs)
    _, shown = ppo_loss(heads, same, None, 0.1, 1.0, dataclasses.replace(PAPER, objective="adaptive_kl"))
    assert shown[1].item() == pytest.approx(-batch.advantages.mean().item(), abs=1e-6)
    assert shown[4:].tolist() == [0, 0]
    assert divergence(heads, heads).abs().max() < 1e-6


def test_penalty_is_halved_and_doubled_outside_its_band():
    assert [penalty_change(kl, 0.01) for kl in (0.0066, 0.0067, 0.01, 0.0149, 0.0151)] == [0.5, 1, 1, 1, 2]


# --- optimiser, sampling, moments ---


def test_adam_equals_the_formula_and_clips_the_norm_of_the_whole_gradient():
    rng = np.random.default_rng(0)
    module = torch.nn.Linear(7, 5)
    optimiser = Adam(module, dataclasses.replace(PAPER, adam_epsilon=1e-5, gradient_norm_clip=0.5))
    w = optimiser.weights.double().numpy().copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    for k in range(1, 40):
        d = rng.normal(size=w.shape) * 10 ** rng.uniform(-3, 0)
        optimiser.gradient.copy_(torch.from_numpy(d))
        optimiser.step(0.01)
        d = d * min(1, 0.5 / np.linalg.norm(d))
        m, v = 0.9 * m + 0.1 * d, 0.999 * v + 0.001 * d**2
        w = w - 0.01 * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-5)
    np.testing.assert_allclose(optimiser.weights.numpy(), w, rtol=1e-4, atol=1e-5)


def test_actions_are_drawn_from_the_policy():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]])
    rngs = [np.random.default_rng(i) for i in range(4000)]
    drawn = sample(Heads(logits.expand(4000, 4), torch.zeros(4000)), rngs)
    expected = 4000 * logits[0].softmax(0).numpy()
    chi_square = ((np.bincount(drawn, minlength=4) - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # 99.9 % of the time with 3 degrees of freedom
    gauss = sample(
        Heads(torch.tensor([[1.0, -2.0]]).expand(4000, 2), torch.zeros(4000), torch.tensor([0.0, -1.0])), rngs
    )
    np.testing.assert_allclose(gauss.mean(0), [1, -2], atol=0.07)
    np.testing.assert_allclose(gauss.std(0), [1, math.exp(-1)], rtol=0.05)


def test_log_probability_of_a_vector_action_is_summed():
    """Two standard normal dimensions at their means: 2 x log(1 / sqrt(2 pi)); entropy 2 x 1.4189."""
    heads = Heads(torch.zeros(1, 2), torch.zeros(1), torch.zeros(2))
    log_probs, entropy = log_probs_and_entropy(heads, torch.zeros(1, 2))
    assert log_probs.item() == pytest.approx(-1.837877)
    assert entropy.item() == pytest.approx(2 * 1.418939)


# --- tiny trainings ---


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def spied(monkeypatch):
    """What a training hands to `gae` and `ppo_loss`, in order."""
    calls = {"gae": [], "loss": []}
    real_gae, real_loss = ppo.gae, ppo.ppo_loss

    def spy_gae(*arguments):
        calls["gae"].append(arguments)
        return real_gae(*arguments)

    def spy_loss(heads, batch, old_log_std, clip, beta, config):
        loss, shown = real_loss(heads, batch, old_log_std, clip, beta, config)
        calls["loss"].append((batch, clip, shown.clone()))
        return loss, shown

    monkeypatch.setattr(ppo, "gae", spy_gae)
    monkeypatch.setattr(ppo, "ppo_loss", spy_loss)
    return calls


def test_a_training_on_breakout(tmp_path, spied):
    folder = train("ppo", "breakout", tmp_path, TINY | {"training_steps": 1024})
    run = json.loads((folder / "run.json").read_text())
    assert run["progress"]["updates"] == 8 * 3 * 4  # iterations x epochs x minibatches
    # each iteration's first minibatch is played by the very policy: ratio 1, nothing clipped; later ones have moved
    first = [shown for _, _, shown in spied["loss"][::12]]
    assert max(abs(shown[4].item()) for shown in first) < 1e-5
    assert {shown[5].item() for shown in first} == {0}
    assert spied["loss"][11][2][4] > 1e-7
    assert [round(float(clip), 4) for _, clip, _ in spied["loss"][::12]] == [
        round(0.1 * (1 - k / 8), 4) for k in range(8)
    ]
    rates = [float(row["learning_rate"]) for row in rows(folder / "curve.csv")]
    assert rates == pytest.approx([0.00025 * (1 - k / 8) for k in (1, 3, 5, 7)])
    # lives end episodes for learning, and scores are the game's own
    over = sum(int(arguments[3].sum()) for arguments in spied["gae"])
    assert over > run["progress"]["episodes"] >= 1
    rewards = np.concatenate([arguments[0] for arguments in spied["gae"]])
    assert set(np.unique(rewards)) <= {-1.0, 0.0, 1.0}
    scores = [float(row["score"]) for row in rows(folder / "episodes.csv")]
    assert len(scores) == run["progress"]["episodes"]
    assert all(score == int(score) >= 0 for score in scores)
    # every step of an iteration is in exactly one minibatch of each epoch
    seen = torch.cat([batch.log_probs for batch, _, _ in spied["loss"][:4]]).sort().values
    again = torch.cat([batch.log_probs for batch, _, _ in spied["loss"][4:8]]).sort().values
    assert torch.equal(seen, again)
    assert not torch.equal(spied["loss"][0][0].log_probs, spied["loss"][4][0].log_probs)


def test_a_time_cap_is_bootstrapped_through_and_a_fall_is_not(tmp_path, spied, monkeypatch):
    real = ppo.make_envs

    def capped(*arguments, **options):
        envs = real(*arguments, **options)
        envs.max_steps = 20
        return envs

    monkeypatch.setattr(ppo, "make_envs", capped)
    train("ppo", "cartpole", tmp_path, TINY | {"training_steps": 512})
    terminals, ends, cuts = (np.concatenate([call[k] for call in spied["gae"]]) for k in (3, 4, 5))
    capped_ends = ends & ~terminals
    assert capped_ends.any()
    assert (terminals & ends).any()
    assert (cuts[capped_ends] != 0).all()


def test_normalisation_of_observations_and_rewards(tmp_path, spied):
    folder = train(
        "ppo", "hopper", tmp_path, {"training_steps": 512, "rollout_steps": 256, "minibatch_size": 64}
    )
    states = torch.cat([batch.states for batch, _, _ in spied["loss"][-4:]])
    assert states.abs().max() <= 10
    assert 0.5 < states.std() < 2
    weights = load_file(folder / "model.safetensors")
    assert weights["std"].shape == (11,)
    assert (weights["std"] != 1).all()
    policy = load_policy(Config(network="mlp", stack=1), 3, (11,), weights, torch.device("cpu"))
    actions = policy(np.zeros((2, 1, 11), np.float32), [np.random.default_rng(0), np.random.default_rng(0)])
    assert actions.shape == (2, 3)
    np.testing.assert_allclose(
        actions[0], actions[1], rtol=1e-5
    )  # a generator per state, and nothing else is random


def test_adaptive_penalty_moves_in_a_training(tmp_path, monkeypatch):
    betas, real = [], ppo.ppo_loss
    monkeypatch.setattr(ppo, "ppo_loss", lambda *a: betas.append(a[4]) or real(*a))
    settings = TINY | {"training_steps": 512, "learning_rate": 0.03, "anneal_learning_rate": False}
    train("ppo", "hopper", tmp_path, settings, variant="adaptive_kl")
    assert betas[0] == 1.0
    assert len(set(betas)) > 1
    assert {math.log2(beta) % 1 for beta in betas} == {0}


def test_a_minibatch_that_does_not_divide_is_refused_before_any_time_is_spent(tmp_path):
    with pytest.raises(
        UserError, match=r"minibatch_size 33 does not divide the 128 .*num_envs 2 x rollout_steps 64"
    ):
        train("ppo", "cartpole", tmp_path, TINY | {"minibatch_size": 33})
