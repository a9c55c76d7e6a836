"""Rainbow (2018) against hand-computed numbers, against NumPy in float64, and as tiny runs of every variant."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from common.evaluation.protocol import load_weights
from common.learning.batch import Batch
from common.learning.priorities import Priorities
from common.learning.replay import Replay
from common.papers import check_defaults, load_paper, resolve
from replications.rainbow import train as script
from replications.rainbow.network import NoisyLinear, RainbowNetwork
from replications.rainbow.train import (
    Config,
    exploration,
    make_adam,
    make_policy,
    n_step_returns,
    new_priorities,
    project,
    update,
)
from tests.training import train, train_in_two

PAPER = Config()
MLP = Config(network="mlp", stack=1)
Z = torch.linspace(-10, 10, 51)
# Few updates: one of them takes a tenth of a second on one core
SMALL = {
    "training_steps": 480, "replay_capacity": 100, "replay_start": 80, "update_period": 16, "target_period": 200, "batch_size": 4,
    "evaluation_period": 240, "evaluation_steps": 20, "held_out_states": 10,
}  # fmt: skip
CARTPOLE = {
    "training_steps": 400, "replay_capacity": 150, "replay_start": 60, "evaluation_period": 200, "evaluation_steps": 40,
    "batch_size": 8,
}  # fmt: skip
VARIANTS = {
    "no_double": {"double": False}, "no_priority": {"prioritised": False}, "no_dueling": {"dueling": False},
    "no_multistep": {"n_step": 1}, "no_distributional": {"distributional": False},
    "no_noisy": {"noisy": False, "initial_exploration": 1.0, "final_exploration": 0.01},
    "ce_priority": {"priority": "cross_entropy"},
}  # fmt: skip


def make_batch(rng: np.random.Generator, size: int, actions: int, inputs: int, n: int = 3) -> Batch:
    """Random transitions of one to n steps."""
    steps = rng.integers(1, n + 1, size)
    rewards = rng.integers(-1, 2, (size, n)) * (np.arange(n) < steps[:, None])
    states, after = (torch.from_numpy(rng.normal(size=(size, 1, inputs)) * 2).float() for _ in range(2))
    return Batch(
        states, torch.from_numpy(rng.integers(actions, size=size)), torch.from_numpy(rewards).float(), after,
        torch.from_numpy(rng.random(size) < 0.3), np.zeros((size, 2), int), torch.from_numpy(steps),
    )  # fmt: skip


# --- the paper as data ---


def test_defaults_are_the_papers():
    assert check_defaults(load_paper("rainbow")) == []


def test_frames_are_four_to_an_agent_step():
    assert (PAPER.replay_start, PAPER.target_period, PAPER.final_exploration_step) == (20_000, 8_000, 62_500)
    assert (PAPER.training_steps, PAPER.evaluation_steps) == (50_000_000, 125_000)
    assert PAPER.evaluation_period == 250_000  # 200 snapshots


def test_each_variant_changes_one_part():
    paper = load_paper("rainbow")
    assert set(paper.variants) == {"", "fast", *VARIANTS}
    for name, expected in VARIANTS.items():
        given_ = resolve(paper, name, "pong", "paper")
        assert {k: v for k, v in given_.settings.items() if v != vars(PAPER)[k]} == expected
        assert given_.task.published is None
    seaquest = resolve(paper, None, "seaquest", "paper")
    assert seaquest.task.published.value == 15898.9
    assert (seaquest.protocol.episodes, seaquest.protocol.max_frames) == (200, 108_000)


def test_epsilon_is_zero_with_noisy_layers_and_falls_without():
    assert {exploration(step, PAPER) for step in (0, 20_000, 50_000_000)} == {0.0}
    plain = Config(**resolve("rainbow", "no_noisy", "pong", "paper").settings)
    assert exploration(20_000, plain) == 1.0
    assert exploration(20_000 + 31_250, plain) == pytest.approx(0.505)
    assert exploration(20_000 + 62_500, plain) == pytest.approx(0.01)


# --- the network ---


def test_parameter_count():
    """Convolutions 77,984; each noisy layer twice its plain size: 2 (3136 512 + 512) a stream, then 2 (512 51 + 51) and four
    times that."""
    net = RainbowNetwork(PAPER, 4, (84, 84))
    first, last = 2 * (3136 * 512 + 512), 2 * (512 * 51 + 51)
    assert sum(p.numel() for p in net.parameters()) == 77_984 + 2 * first + 5 * last == 6_764_190
    states = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    assert net.logits(states).shape == (2, 4, 51)


def test_noisy_layers_begin_as_the_paper_says():
    torch.manual_seed(0)
    layer = NoisyLinear(3136, 64, 0.5)
    assert torch.unique(layer.weight_sigma).tolist() == pytest.approx([0.0089286], abs=1e-7)
    assert torch.unique(layer.bias_sigma).tolist() == pytest.approx([0.0089286], abs=1e-7)
    bound = 3136**-0.5
    for mean in (layer.weight, layer.bias):
        assert mean.abs().max() <= bound
    assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_a_noisy_layer_is_the_noisy_matrix():
    """The matrix and its gradients written out, from the same noise: f(x) = sgn(x) sqrt|x| of inputs and of outputs."""
    torch.manual_seed(1)
    layer, x = NoisyLinear(7, 5, 0.5).double(), torch.randn(6, 7).double()
    torch.manual_seed(9)
    y = layer(x)
    y.pow(2).sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    torch.manual_seed(9)
    noise = torch.randn(12).double()
    f = noise.sign() * noise.abs() ** 0.5
    matrix = layer.weight + layer.weight_sigma * torch.outer(f[7:], f[:7])
    expected = x @ matrix.T + layer.bias + layer.bias_sigma * f[7:]
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    expected.pow(2).sum().backward()
    for gradient, p in zip(gradients, layer.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-5, atol=1e-5)


def test_noise_is_new_for_each_pass_one_for_a_batch_and_none_in_evaluation():
    layer, x = NoisyLinear(4, 3, 0.5), torch.randn(1, 4).repeat(8, 1)
    one, two = layer(x), layer(x)
    assert (one == one[0]).all()
    assert (one != two).all()
    layer.eval()
    state = torch.get_rng_state()
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert (torch.get_rng_state() == state).all()  # an evaluation phase moves no generator of the training's


def test_dueling_is_per_atom_and_its_mean_over_actions():
    """v + a - mean a: what is added to all advantages of an atom is of no effect, what is added to its value is."""
    net = RainbowNetwork(MLP, 3, (4,)).eval()
    states = torch.randn(5, 1, 4)
    v, a = net.value(net.torso(states)), net.advantage(net.torso(states)).reshape(5, 3, 51)
    before = net.logits(states)
    torch.testing.assert_close(before, v[:, None] + a - a.mean(dim=1, keepdim=True))
    shift = torch.linspace(-1, 1, 51)
    with torch.no_grad():
        net.advantage[2].bias += shift.repeat(3)
    torch.testing.assert_close(net.logits(states), before)
    with torch.no_grad():
        net.value[2].bias += shift
    torch.testing.assert_close(net.logits(states), before + shift)


def test_values_are_means_of_the_distributions():
    net = RainbowNetwork(MLP, 2, (4,))
    assert net.z.tolist() == pytest.approx(np.linspace(-10, 10, 51).tolist(), abs=1e-5)
    logits = torch.full((1, 2, 51), -100.0)
    logits[0, 0, 26], logits[0, 1, [0, 50]] = 0.0, 0.0
    assert net.values(logits)[0].tolist() == pytest.approx([0.4, 0.0], abs=1e-5)


# --- the projection ---


def test_projection_oracles():
    """Spacing .4: .4 falls on atom 26; .5 gives it .75 and its neighbour .25; 1 half and half; 25 goes to the last atom."""

    def of(value: float) -> dict[int, float]:
        mass = project(torch.tensor([value]), torch.zeros(1), torch.full((1, 51), 1 / 51), Z)[0]
        return {int(i): float(mass[i]) for i in torch.nonzero(mass > 1e-5)}

    assert float(Z[1] - Z[0]) == pytest.approx(0.4)
    assert of(0.4) == pytest.approx({26: 1.0}, abs=1e-4)
    assert of(0.5) == pytest.approx({26: 0.75, 27: 0.25}, abs=1e-4)
    assert of(1.0) == pytest.approx({27: 0.5, 28: 0.5}, abs=1e-4)
    assert of(25.0) == pytest.approx({50: 1.0}, abs=1e-4)
    assert of(-25.0) == pytest.approx({0: 1.0}, abs=1e-4)


def slow_projection(returns, discounts, p, z):
    """One atom at a time, in float64: lower and upper neighbour, all to one of them where they are the same."""
    out = np.zeros_like(p)
    for k in range(len(p)):
        for j in range(len(z)):
            b = (np.clip(returns[k] + discounts[k] * z[j], z[0], z[-1]) - z[0]) / (z[1] - z[0])
            low, high = int(np.floor(b)), int(np.ceil(b))
            if low == high:
                out[k, low] += p[k, j]
            else:
                out[k, low] += p[k, j] * (high - b)
                out[k, high] += p[k, j] * (b - low)
    return out


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 11, 51]), st.floats(0, 1), st.floats(0.1, 30))
def test_projection_keeps_the_mass_and_inside_the_support_the_mean(seed, atoms, discount, scale):
    rng = np.random.default_rng(seed)
    z = np.linspace(-10, 10, atoms)
    p = rng.dirichlet(np.full(atoms, 0.3), size=6)
    returns = rng.choice([rng.normal(size=6) * scale, rng.integers(-3, 4, 6) * (z[1] - z[0])])
    discounts = np.full(6, discount) * (rng.random(6) < 0.7)
    tensors = (torch.from_numpy(x) for x in (returns, discounts, p, z))
    mass = project(*tensors).numpy()
    np.testing.assert_allclose(mass, slow_projection(returns, discounts, p, z), atol=1e-9)
    assert (mass >= 0).all()
    np.testing.assert_allclose(mass.sum(axis=1), 1, atol=1e-9)
    moved = returns[:, None] + discounts[:, None] * z
    np.testing.assert_allclose(mass @ z, (p * moved.clip(-10, 10)).sum(axis=1), atol=1e-7)
    inside = (abs(moved) <= 10).all(axis=1)
    np.testing.assert_allclose((mass @ z)[inside], (returns + discounts * (p @ z))[inside], atol=1e-7)
    half = project(*(torch.from_numpy(x).float() for x in (returns, discounts, p, z)))
    np.testing.assert_allclose(half.sum(dim=1).numpy(), 1, atol=1e-4)  # in the precision of a training


# --- the learning rule ---


def test_n_step_returns():
    rewards = torch.tensor([[1.0, 0.0, -1.0], [1.0, 1.0, 0.0]])
    assert n_step_returns(rewards, 0.9).tolist() == pytest.approx([1 - 0.81, 1.9])


class Fixed(torch.nn.Module):
    """Action values that do not depend on the state, one atom each."""

    def __init__(self, values: list[float]):
        super().__init__()
        self.row, self.z = torch.nn.Parameter(torch.tensor(values)), None

    def logits(self, states):
        return self.row.repeat(len(states), 1).unsqueeze(2)

    def values(self, logits):
        return logits.squeeze(2)

    def forward(self, states):
        return self.values(self.logits(states))


@pytest.mark.parametrize(("double", "value"), [(True, 5.0), (False, 10.0)])
def test_roles_discounts_and_terminals(double, value):
    """Online [1, 3, 2] chooses action 1, the target [10, 5, 7] values it 5; without double it chooses and values 10. After k steps
    discount^k, after a terminal nothing."""
    config = Config(distributional=False, double=double, discount=0.9)
    q, target = Fixed([1.0, 3.0, 2.0]), Fixed([10.0, 5.0, 7.0])
    batch = Batch(
        torch.zeros(4, 1), torch.tensor([0, 0, 0, 2]), torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]]),
        torch.zeros(4, 1), torch.tensor([False, False, False, True]), np.zeros((4, 2), int), torch.tensor([3, 2, 1, 1]),
    )  # fmt: skip
    _, sizes = update(q, target, make_adam(q, config), batch, torch.ones(4), config)
    targets = [1 + 0.9 + 0.81 + 0.729 * value, 1.9 + 0.81 * value, 1 + 0.9 * value]
    assert sizes.tolist() == pytest.approx([y - 1 for y in targets] + [1.0])


def numpy_softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("double", [True, False])
def test_update_against_float64_numpy(double):
    """Choice, projection, KL, weights, the backward pass through the dueling streams and Adam, by hand; noise switched off."""
    config = dataclasses.replace(MLP, double=double)
    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    q, target = (RainbowNetwork(config, 3, (5,)).eval() for _ in range(2))
    optimiser = make_adam(q, config)
    mine, frozen = (
        {n: p.detach().double().numpy().copy() for n, p in net.named_parameters()} for net in (q, target)
    )
    moments = {n: [np.zeros_like(a), np.zeros_like(a)] for n, a in mine.items()}
    z = np.linspace(-10, 10, 51)

    def forward(p, x):
        h = np.maximum(x @ p["torso.1.weight"].T + p["torso.1.bias"], 0)
        streams = {}
        for name in ("value", "advantage"):
            inner = np.maximum(h @ p[f"{name}.0.weight"].T + p[f"{name}.0.bias"], 0)
            streams[name] = inner, inner @ p[f"{name}.2.weight"].T + p[f"{name}.2.bias"]
        a = streams["advantage"][1].reshape(len(x), 3, 51)
        return h, streams, streams["value"][1][:, None] + a - a.mean(axis=1, keepdims=True)

    rows = np.arange(16)
    for t in range(1, 7):
        batch = make_batch(rng, 16, 3, 5)
        w = rng.random(16)
        loss, sizes = update(q, target, optimiser, batch, torch.from_numpy(w).float(), config)

        s, s2, a = (
            batch.states[:, 0].double().numpy(),
            batch.next_states[:, 0].double().numpy(),
            batch.actions.numpy(),
        )
        values = numpy_softmax(forward(mine if double else frozen, s2)[2]) @ z
        chosen = numpy_softmax(forward(frozen, s2)[2])[rows, values.argmax(axis=1)]
        returns = batch.rewards.double().numpy() @ 0.99 ** np.arange(3)
        discounts = 0.99 ** batch.steps.numpy() * ~batch.terminals.numpy()
        goal = slow_projection(returns, discounts, chosen, z)
        h, streams, logits = forward(mine, s)
        p = numpy_softmax(logits)[rows, a]
        kl = (goal * (np.log(np.maximum(goal, 1e-300)) - np.log(p))).sum(axis=1)
        np.testing.assert_allclose(sizes.numpy(), kl, rtol=2e-3, atol=2e-4)
        assert float(loss) == pytest.approx((w * kl).mean(), rel=1e-3)

        back = (w / 16)[:, None] * (p - goal)
        per_action = np.repeat(-back[:, None] / 3, 3, axis=1)
        per_action[rows, a] += back
        d, dh = {}, 0.0
        for name, out in (("value", back), ("advantage", per_action.reshape(16, 153))):
            inner = streams[name][0]
            d[f"{name}.2.weight"], d[f"{name}.2.bias"] = out.T @ inner, out.sum(axis=0)
            middle = (out @ mine[f"{name}.2.weight"]) * (inner > 0)
            d[f"{name}.0.weight"], d[f"{name}.0.bias"] = middle.T @ h, middle.sum(axis=0)
            dh = dh + middle @ mine[f"{name}.0.weight"]
        dh = dh * (h > 0)
        d["torso.1.weight"], d["torso.1.bias"] = dh.T @ s, dh.sum(axis=0)
        for name, gradient in d.items():
            m = moments[name]
            m[0], m[1] = 0.9 * m[0] + 0.1 * gradient, 0.999 * m[1] + 0.001 * gradient**2
            mine[name] -= 6.25e-5 * (m[0] / (1 - 0.9**t)) / (np.sqrt(m[1] / (1 - 0.999**t)) + 1.5e-4)
    for name, p in q.named_parameters():
        assert np.abs(p.detach().numpy() - mine[name]).max() < 2e-6, name
        assert ("sigma" in name) == bool((p.detach().numpy() == mine[name].astype(np.float32)).all()), name


def test_priorities_are_losses_without_weights():
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    q, target = (RainbowNetwork(MLP, 3, (5,)).eval() for _ in range(2))
    batch = make_batch(rng, 8, 3, 5)
    copy = RainbowNetwork(MLP, 3, (5,)).eval()
    copy.load_state_dict(q.state_dict())
    _, plain = update(q, target, make_adam(q, MLP), batch, torch.ones(8), MLP)
    _, weighted = update(copy, target, make_adam(copy, MLP), batch, torch.linspace(0.1, 1, 8), MLP)
    assert (plain == weighted).all()
    assert (plain > 0).all()
    assert new_priorities(torch.tensor([-1e-7, 0.0, 2.5]), PAPER).tolist() == pytest.approx(
        [1e-6, 1e-6, 2.5 + 1e-6]
    )


def test_priorities_are_divergences_or_cross_entropies():
    """The cross-entropy is the divergence and the goal's own entropy; what is learned is the same."""
    torch.manual_seed(4)
    batch = make_batch(np.random.default_rng(4), 8, 3, 5)
    first, target = (RainbowNetwork(MLP, 3, (5,)).eval() for _ in range(2))
    networks, found = [], []
    for priority in ("kl", "cross_entropy"):
        config = dataclasses.replace(MLP, priority=priority)
        networks.append(RainbowNetwork(config, 3, (5,)).eval())
        networks[-1].load_state_dict(first.state_dict())
        found.append(
            update(networks[-1], target, make_adam(networks[-1], config), batch, torch.ones(8), config)
        )
    assert found[0][0] == found[1][0]
    assert all((a == b).all() for a, b in zip(*(net.parameters() for net in networks), strict=True))
    with torch.no_grad():
        states = batch.next_states
        p = target.logits(states).softmax(2)[torch.arange(8), first(states).argmax(1)]
    returns, follows = batch.rewards @ 0.99 ** torch.arange(3), 0.99**batch.steps * ~batch.terminals
    goal = slow_projection(*(t.double().numpy() for t in (returns, follows, p)), np.linspace(-10, 10, 51))
    entropy = -(goal * np.log(np.maximum(goal, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(found[1][1] - found[0][1], entropy, rtol=1e-3, atol=1e-4)
    assert (entropy > 0.01).any()


def test_the_norm_of_the_gradient_is_clipped():
    """Weights of a thousand make the gradient large; clipped it has norm 10 and its direction, a small one stays as it is."""
    torch.manual_seed(5)
    batch = make_batch(np.random.default_rng(5), 8, 3, 5)
    first, target = (RainbowNetwork(MLP, 3, (5,)).eval() for _ in range(2))

    def gradient(weight: float, norm: float) -> torch.Tensor:
        q, config = RainbowNetwork(MLP, 3, (5,)).eval(), dataclasses.replace(MLP, max_gradient_norm=norm)
        q.load_state_dict(first.state_dict())
        adam = make_adam(q, config)
        update(q, target, adam, batch, torch.full((8,), weight), config)
        return adam.param_groups[0]["params"][0].grad

    free, clipped = gradient(1000.0, 1e9), gradient(1000.0, PAPER.max_gradient_norm)
    assert free.norm() > 20
    torch.testing.assert_close(clipped, free * 10 / free.norm(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient(0.01, 10.0), free / 1e5, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("settings_", "passes"), [({}, 3), ({"double": False}, 2), ({"noisy": False}, 0)])
def test_every_forward_pass_of_an_update_has_noise_of_its_own(monkeypatch, settings_, passes):
    """Target, choosing and learning network: four layers each."""
    config = dataclasses.replace(MLP, **settings_)
    q, target = (RainbowNetwork(config, 3, (5,)) for _ in range(2))
    optimiser, drawn, real = make_adam(q, config), [], torch.randn

    def randn(*arguments, **options):
        drawn.append(real(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(torch, "randn", randn)
    update(q, target, optimiser, make_batch(np.random.default_rng(0), 4, 3, 5), torch.ones(4), config)
    assert len(drawn) == 4 * passes
    assert len({float(noise[0]) for noise in drawn}) == len(drawn)


def test_a_loaded_policy_has_no_noise():
    net = RainbowNetwork(MLP, 3, (5,))
    policy = make_policy(net, MLP)
    states = np.random.default_rng(0).normal(size=(200, 1, 5)).astype(np.float32)
    actions = policy(states, [])
    assert (actions == net.eval()(torch.from_numpy(states)).argmax(dim=1).numpy()).all()
    assert (net.train()(torch.from_numpy(states)).argmax(dim=1).numpy() != actions).any()
    with pytest.raises(ValueError, match="do not fit"):
        load_weights(RainbowNetwork(dataclasses.replace(MLP, dueling=False), 3, (5,)), net.state_dict())


# --- tiny runs ---


class Notes:
    """What a training did: who acted, evaluated, drew and was given priorities."""

    def __init__(self, patch: pytest.MonkeyPatch):
        notes = self
        notes.acting, notes.evaluating, notes.given, notes.batches, notes.priorities = (
            set(),
            set(),
            [],
            [],
            None,
        )
        notes.draws = 0

        class Spy(Priorities):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **options)
                notes.priorities = self

            def draw(self, rng, batch_size):
                notes.draws += 1
                return super().draw(rng, batch_size)

            def update(self, indices, priorities):
                super().update(indices, priorities)
                notes.given.append(priorities)

        real_act, real_greedy, real_gather = script.act, script.greedy, Replay.gather

        def act(q, *arguments):
            notes.acting.add(q.training)
            return real_act(q, *arguments)

        def greedy(q, *arguments):
            policy = real_greedy(q, *arguments)

            def noted(states, rngs):
                notes.evaluating.add(q.training)
                return policy(states, rngs)

            return noted

        def gather(replay, indices):
            batch = real_gather(replay, indices)
            notes.batches.append((batch.rewards.shape[1], batch.steps.numpy()))
            return batch

        patch.setattr(script, "Priorities", Spy)
        patch.setattr(script, "act", act)
        patch.setattr(script, "greedy", greedy)
        patch.setattr(Replay, "gather", gather)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, Notes]:
    with pytest.MonkeyPatch.context() as patch:
        notes = Notes(patch)
        return train("rainbow", "breakout", tmp_path_factory.mktemp("unbroken"), SMALL), notes


def test_a_tiny_run_reaches_every_branch(unbroken):
    folder, notes = unbroken
    run = json.loads((folder / "run.json").read_text())
    counts = run["result"]["counts"]
    assert run["progress"]["updates"] == len(notes.given) == 25  # (480 - 80) / 16
    assert (counts["target_copies"], counts["evaluations"], counts["ring_wraps"]) == (2, 2, 1)
    assert (notes.acting, notes.evaluating) == (
        {True},
        {False},
    )  # noise where it acts, none where it is evaluated
    curve = list(csv.DictReader((folder / "curve.csv").open()))
    assert [float(row["beta"]) for row in curve] == pytest.approx([0.7, 1.0])
    assert [float(row["epsilon"]) for row in curve] == [0.0, 0.0]
    assert {n for n, _ in notes.batches} == {3}
    assert len({float(p) for batch in notes.given for p in batch}) > 20


def same(folder: Path, whole: Path, one: Priorities, two: Priorities) -> None:
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    runs = [json.loads((f / "run.json").read_text()) for f in (folder, whole)]
    assert runs[0]["cost"]["attempts"] == 2
    assert (runs[0]["progress"], runs[0]["result"]) == (runs[1]["progress"], runs[1]["result"])
    a, b = one.state_dict(), two.state_dict()
    assert (a.pop("order")["masses"] == b.pop("order")["masses"]).all()
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_broken_and_resumed_is_the_same(tmp_path, monkeypatch, num_envs):
    """Noise, Adam's moments and the sum tree come back too."""
    settings_ = CARTPOLE | {"num_envs": num_envs}
    notes = Notes(monkeypatch)
    whole = train("rainbow", "cartpole", tmp_path / "whole", settings_)
    first = notes.priorities
    folder = train_in_two(251, "rainbow", "cartpole", tmp_path / "broken", settings_)
    same(folder, whole, notes.priorities, first)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_does_what_it_says(variant, tmp_path, monkeypatch):
    notes = Notes(monkeypatch)
    folder = train(
        "rainbow", "cartpole", tmp_path, CARTPOLE | VARIANTS[variant] | {"final_exploration_step": 200}
    )
    run = json.loads((folder / "run.json").read_text())
    assert run["progress"]["updates"] == 170
    curve = list(csv.DictReader((folder / "curve.csv").open()))
    assert all(float(row["loss"]) > 0 for row in curve)
    assert len(notes.given) == notes.draws == (0 if variant == "no_priority" else 170)
    assert {n for n, _ in notes.batches} == {1 if variant == "no_multistep" else 3}
    assert {int(k) for _, steps in notes.batches for k in steps} == (
        {1} if variant == "no_multistep" else {1, 2, 3}
    )
    assert run["progress"]["episodes"] > 5
    epsilons = [float(row["epsilon"]) for row in curve]
    assert epsilons == (pytest.approx([1 - 0.99 * 140 / 200, 0.01]) if variant == "no_noisy" else [0, 0])
    from safetensors.numpy import load_file

    weights = {name: w.shape for name, w in load_file(folder / "model.safetensors").items()}
    assert any("sigma" in name for name in weights) == (variant != "no_noisy")
    assert any(name.startswith("value.") for name in weights) == (variant != "no_dueling")
    assert weights["advantage.2.bias"] == ((2,) if variant == "no_distributional" else (102,))
