"""DQN (2015) against hand-computed numbers, against NumPy in float64, and on CartPole."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from common.evaluation.protocol import load_weights
from common.learning.batch import Batch
from common.papers import check_defaults, load_paper
from replications.dqn.train import (
    MLP,
    Config,
    NatureNetwork,
    RMSProp,
    act,
    exploration,
    make_network,
    q_loss,
    q_targets,
    update,
)
from tests.training import on_numbers, spaces

PAPER = Config()


def test_defaults_are_the_papers():
    assert check_defaults(load_paper("dqn")) == []


def test_epsilon_schedule():
    """Counted in agent steps after the replay start: .55 half-way down."""
    assert exploration(0, PAPER) == 1.0
    assert exploration(50_000, PAPER) == 1.0
    assert exploration(550_000, PAPER) == pytest.approx(0.55)
    assert exploration(1_050_000, PAPER) == pytest.approx(0.1)
    assert exploration(50_000_000, PAPER) == pytest.approx(0.1)


def test_network_shapes_and_parameter_count():
    q = NatureNetwork(4)
    assert sum(p.numel() for p in q.parameters()) == 1_686_180
    x = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    sizes = []
    y = x.float() / 255
    for layer in on_numbers(q.layers):
        y = layer(y)
        sizes.append(tuple(y.shape[1:]))
    assert [s for s in sizes if len(s) == 3][::2] == [(32, 20, 20), (64, 9, 9), (64, 7, 7)]
    assert (3136,) in sizes
    assert torch.allclose(q(x), y, atol=1e-5)
    assert q(x).shape == (3, 4)


def test_initial_weights_are_uniform_within_one_over_root_fan_in():
    torch.manual_seed(0)
    q = NatureNetwork(6)
    for layer, fan_in in ((0, 4 * 64), (2, 32 * 16), (4, 64 * 9), (7, 3136), (9, 512)):
        bound = 1 / math.sqrt(fan_in)
        weight = q.layers[layer].weight.detach()
        assert weight.abs().max() <= bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert q.layers[layer].bias.detach().abs().max() <= bound


def test_rmsprop_first_step():
    """From zeros with gradient 1: .00025 / sqrt(.05 - .0025 + .01) = .0010426 down."""
    module = torch.nn.Linear(1, 1, bias=False)
    optimiser = RMSProp(module, PAPER)
    before = module.weight.item()
    optimiser.gradient.fill_(1.0)
    optimiser.step()
    assert before - module.weight.item() == pytest.approx(0.00025 / math.sqrt(0.0575), rel=1e-4)
    assert 0.00025 / math.sqrt(0.0575) == pytest.approx(0.0010426, abs=5e-8)


def test_rmsprop_follows_the_formula_for_many_steps():
    rng = np.random.default_rng(0)
    module = torch.nn.Linear(7, 5)
    optimiser = RMSProp(module, PAPER)
    w = optimiser.weights.double().numpy().copy()
    g, s = np.zeros_like(w), np.zeros_like(w)
    for _ in range(50):
        d = rng.normal(size=w.shape) * 10 ** rng.uniform(-3, 1)
        g, s = 0.95 * g + 0.05 * d, 0.95 * s + 0.05 * d**2
        w = w - 0.00025 * d / np.sqrt(s - g**2 + 0.01)
        optimiser.gradient.copy_(torch.from_numpy(d))
        optimiser.step()
    np.testing.assert_allclose(optimiser.weights.numpy(), w, rtol=1e-5, atol=1e-7)


def test_rmsprop_of_a_constant_gradient_stays_a_number():
    """s - g^2 goes to 0, and float32 rounds it below: with a small floor the root is then of a negative number."""
    module = torch.nn.Linear(1, 1, bias=False)
    optimiser = RMSProp(module, dataclasses.replace(PAPER, min_squared_gradient=1e-5))
    lowest = 0.0
    for _ in range(300):
        before = module.weight.item()
        optimiser.gradient.fill_(24.0)
        optimiser.step()
        lowest = min(lowest, float(optimiser.mean_square - optimiser.mean**2))
        assert 0 < before - module.weight.item() <= 1.01 * 0.00025 * 24 / math.sqrt(1e-5)
    assert lowest < -1e-5  # or this would show nothing


@pytest.mark.parametrize(("delta", "gradient"), [(0.5, 0.5), (7.0, 1.0), (-0.25, -0.25), (-3.0, -1.0)])
def test_error_is_clipped_in_the_gradient_and_summed(delta, gradient):
    """delta = target - value; the loss falls in the direction of clip(delta), and two equal samples pull twice as hard."""
    values = torch.zeros(2, 3, requires_grad=True)
    q_loss(values, torch.tensor([1, 1]), torch.tensor([delta, delta]), 1.0).backward()
    assert values.grad.tolist() == [[0, -gradient, 0], [0, -gradient, 0]]


def test_targets_bootstrap_unless_terminal():
    next_values = torch.tensor([[1.0, 5.0], [7.0, -2.0]])
    targets = q_targets(torch.tensor([1.0, -1.0]), next_values, torch.tensor([False, True]), 0.99)
    assert targets.tolist() == pytest.approx([1 + 0.99 * 5, -1.0])


def numpy_forward(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> list[np.ndarray]:
    """Activations of an MLP with ReLU between the layers, float64."""
    activations = [x]
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        if i < len(layers) - 1:
            x = np.maximum(x, 0)
        activations.append(x)
    return activations


def test_update_against_float64_numpy():
    """Targets, clipped error, backward pass and RMSProp, written out by hand for the MLP; ten updates in a row."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    q, target = MLP(3, 5), MLP(3, 5)
    numpy_of = lambda net: [  # noqa: E731
        (m.weight.detach().double().numpy().copy(), m.bias.detach().double().numpy().copy())
        for m in net.layers
        if isinstance(m, torch.nn.Linear)
    ]
    layers, frozen = numpy_of(q), numpy_of(target)
    means = [[np.zeros_like(a), np.zeros_like(a)] for layer in layers for a in layer]
    optimiser = RMSProp(q, PAPER)
    for _ in range(10):
        s, s2 = rng.normal(size=(32, 1, 5)) * 3, rng.normal(size=(32, 1, 5)) * 3
        a, r, end = rng.integers(3, size=32), rng.integers(-1, 2, 32) * 1.0, rng.random(32) < 0.3
        batch = Batch(
            torch.from_numpy(s).float(), torch.from_numpy(a), torch.from_numpy(r).float(), torch.from_numpy(s2).float(),
            torch.from_numpy(end), np.zeros((32, 2), int),
        )  # fmt: skip
        loss = float(update(q, target, optimiser, batch, PAPER))

        y = r + 0.99 * numpy_forward(frozen, s2[:, 0])[-1].max(axis=1) * ~end
        acts = numpy_forward(layers, s[:, 0])
        delta = y - acts[-1][np.arange(32), a]
        assert loss == pytest.approx(
            np.where(abs(delta) <= 1, delta**2 / 2, abs(delta) - 0.5).sum(), rel=1e-4
        )
        back = np.zeros_like(acts[-1])
        back[np.arange(32), a] = -np.clip(delta, -1, 1)
        gradients = []
        for i in range(len(layers) - 1, -1, -1):
            gradients[:0] = [back.T @ acts[i], back.sum(axis=0)]
            back = (back @ layers[i][0]) * (acts[i] > 0)
        flat = [array for layer in layers for array in layer]
        for array, d, moments in zip(flat, gradients, means, strict=True):
            moments[0] = 0.95 * moments[0] + 0.05 * d
            moments[1] = 0.95 * moments[1] + 0.05 * d**2
            array -= 0.00025 * d / np.sqrt(moments[1] - moments[0] ** 2 + 0.01)
    expected = np.concatenate([array.ravel() for layer in layers for array in layer])
    np.testing.assert_allclose(optimiser.weights.numpy(), expected, rtol=2e-4, atol=2e-6)


def test_update_of_the_convolutional_network_against_float64_autograd():
    """The fast float32 path (flat vector, channels last, bytes in) against a plain float64 module and textbook RMSProp."""
    torch.manual_seed(2)
    q, target = NatureNetwork(4), NatureNetwork(4)
    slow = NatureNetwork(4).double()
    slow.load_state_dict(q.state_dict())
    slow_target = NatureNetwork(4).double()
    slow_target.load_state_dict(target.state_dict())
    optimiser = RMSProp(q, PAPER)
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (32, 5, 84, 84), dtype=np.uint8))
    a, r = torch.from_numpy(rng.integers(4, size=32)), torch.from_numpy(rng.normal(size=32)).float()
    end = torch.from_numpy(rng.random(32) < 0.5)
    update(
        q, target, optimiser, Batch(frames[:, :-1], a, r, frames[:, 1:], end, np.zeros((32, 2), int)), PAPER
    )

    y = (
        r.double()
        + 0.99
        * on_numbers(slow_target.layers)(frames[:, 1:].double() / 255).amax(1).detach()
        * (~end).double()
    )
    delta = y - on_numbers(slow.layers)(frames[:, :-1].double() / 255)[torch.arange(32), a]
    torch.where(delta.abs() <= 1, delta**2 / 2, delta.abs() - 0.5).sum().backward()
    for fast, plain in zip(q.parameters(), slow.parameters(), strict=True):
        d = plain.grad
        step = 0.00025 * d / torch.sqrt(0.05 * d**2 - (0.05 * d) ** 2 + 0.01)
        torch.testing.assert_close(fast.detach().double(), plain.detach() - step, rtol=1e-3, atol=5e-7)


def test_exploration_is_uniform_and_greedy_is_argmax():
    class Fixed(torch.nn.Module):
        def forward(self, states):
            return torch.tensor([[0.0, 3.0, 1.0]]).repeat(len(states), 1)

    rng, states = np.random.default_rng(0), torch.zeros(1000, 4)
    assert (act(Fixed(), states, 0.0, rng, 3) == 1).all()
    counts = (
        np.bincount(np.concatenate([act(Fixed(), states, 0.3, rng, 3) for _ in range(20)]), minlength=3)
        / 20_000
    )
    assert counts == pytest.approx([0.1, 0.8, 0.1], abs=0.01)


def test_weights_of_another_network_are_refused():
    q = make_network(PAPER, spaces(6, (84, 84)))
    with pytest.raises(ValueError, match=r"layers\.9"):
        load_weights(make_network(PAPER, spaces(4, (84, 84))), q.state_dict())


def test_no_target_and_no_replay_are_what_the_ablation_says():
    paper = load_paper("dqn")
    from common.papers import resolve

    settings = {
        name: resolve(paper, name, "breakout", "paper").settings
        for name in ("both", "no_replay", "no_target", "neither")
    }
    switches = {name: (s["replay"], s["target_network"]) for name, s in settings.items()}
    assert switches == {
        "both": (True, True),
        "no_replay": (False, True),
        "no_target": (True, False),
        "neither": (False, False),
    }
    for s in settings.values():  # a fifth of the main runs' 50 million frames, which are agent steps
        assert s["training_steps"] * 5 == Config().training_steps
        assert (s["evaluation_period"], s["evaluation_steps"]) == (250_000, 135_000)
    assert {f.name for f in dataclasses.fields(Config)} == set(settings["both"])
