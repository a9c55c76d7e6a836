"""Double DQN (2016) against hand-computed numbers, against NumPy in float64, and as a tiny run that is broken and resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.evaluation.protocol import load_weights
from common.learning.batch import Batch
from common.papers import check_defaults, load_paper, resolve
from replications.double_dqn import train as script
from replications.double_dqn.train import (
    MLP,
    Config,
    RMSProp,
    greedy,
    make_network,
    q_targets,
    update,
)
from tests.training import TINY, on_numbers, spaces, train, train_in_two

PAPER = Config()
TUNED = Config(**resolve("double_dqn", "tuned", "pong", "paper").settings)


def test_defaults_are_the_papers():
    assert check_defaults(load_paper("double_dqn")) == []


@pytest.mark.parametrize(("size", "period"), [("hour", 3_000), ("day", 15_000), ("paper", 30_000)])
def test_tuned_differs_in_four_settings_at_every_size(size, period):
    """The paper's three, the copies three times as far apart, and the exploration of Schaul et al. in evaluation phases."""
    plain, tuned = (resolve("double_dqn", variant, "pong", size).settings for variant in (None, "tuned"))
    differs = {k: v for k, v in tuned.items() if v != plain[k]}
    assert differs == {
        "shared_bias": True,
        "target_period": period,
        "final_exploration": 0.01,
        "evaluation_epsilon": 0.01,
    }
    assert tuned["target_period"] == 3 * plain["target_period"]


def test_protocols():
    plain = resolve("double_dqn", None, "enduro", "paper")
    tuned = resolve("double_dqn", "tuned", "enduro", "paper")
    assert (plain.protocol.episodes, plain.protocol.max_frames, plain.protocol.epsilon) == (
        100,
        5 * 60 * 60,
        0.05,
    )
    assert (tuned.protocol.max_frames, tuned.protocol.epsilon) == (30 * 60 * 60, 0.001)
    assert (plain.task.published.value, tuned.task.published.value) == (
        319.5,
        1211.8,
    )  # two conditions, two numbers
    paper = load_paper("double_dqn")
    assert sum(t.kind == "atari" for t in paper.variants[""].tasks.values()) == 49
    assert len(paper.variants["tuned"].tasks) == 57


def parameters(q: torch.nn.Module) -> int:
    return sum(p.numel() for p in q.parameters())


def test_parameter_counts():
    assert parameters(make_network(PAPER, spaces(4, (84, 84)))) == 1_686_180
    assert parameters(make_network(TUNED, spaces(4, (84, 84)))) == 1_686_177


def test_a_shared_bias_moves_all_values_alike():
    """Only the last layer's; its gradient is the sum of those of the values."""
    torch.manual_seed(0)
    q = make_network(TUNED, spaces(4, (84, 84)))
    assert [tuple(layer.bias.shape) for layer in q.layers if hasattr(layer, "bias")] == [
        (32,),
        (64,),
        (64,),
        (512,),
        (1,),
    ]
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    before = q(states)
    (before * torch.arange(12.0).reshape(3, 4)).sum().backward()
    assert q.layers[-1].bias.grad.tolist() == [66.0]
    with torch.no_grad():
        q.layers[-1].bias += 2
    torch.testing.assert_close(q(states), before + 2)


def test_weights_of_the_other_version_are_refused():
    with pytest.raises(ValueError, match=r"layers\.9\.bias"):
        load_weights(
            make_network(PAPER, spaces(4, (84, 84))), make_network(TUNED, spaces(4, (84, 84))).state_dict()
        )


ONLINE, TARGET = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[10.0, 5.0, 7.0]])


def test_the_online_network_chooses_and_the_target_network_values():
    """1 + .9 * 5 = 5.5. DQN's own target is 10, and the two roles swapped give 1 + .9 * 1 = 1.9."""
    go_on, reward = torch.tensor([False]), torch.tensor([1.0])
    assert q_targets(reward, ONLINE, TARGET, go_on, 0.9).tolist() == pytest.approx([5.5])
    assert q_targets(reward, TARGET, TARGET, go_on, 0.9).tolist() == pytest.approx([10.0])
    assert q_targets(reward, TARGET, ONLINE, go_on, 0.9).tolist() == pytest.approx([1.9])


def test_a_terminal_target_is_the_reward():
    rewards, ends = torch.tensor([-1.0, 1.0]), torch.tensor([True, False])
    targets = q_targets(rewards, ONLINE.repeat(2, 1), TARGET.repeat(2, 1), ends, 0.99)
    assert targets.tolist() == pytest.approx([-1.0, 1 + 0.99 * 5])


def numpy_layers(net: torch.nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    linear = [m for m in net.layers if isinstance(m, torch.nn.Linear)]
    return [
        (m.weight.detach().double().numpy().copy(), m.bias.detach().double().numpy().copy()) for m in linear
    ]


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
    """Chosen by the weights before the step, valued by the target's; backward pass and RMSProp by hand; ten updates in a row."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    q, target = MLP(3, 5), MLP(3, 5)
    layers, frozen = numpy_layers(q), numpy_layers(target)
    means = [[np.zeros_like(a), np.zeros_like(a)] for layer in layers for a in layer]
    optimiser, disagreed = RMSProp(q, PAPER), 0
    for _ in range(10):
        s, s2 = rng.normal(size=(32, 1, 5)) * 3, rng.normal(size=(32, 1, 5)) * 3
        a, r, end = rng.integers(3, size=32), rng.integers(-1, 2, 32) * 1.0, rng.random(32) < 0.3
        batch = Batch(
            torch.from_numpy(s).float(), torch.from_numpy(a), torch.from_numpy(r).float(), torch.from_numpy(s2).float(),
            torch.from_numpy(end), np.zeros((32, 2), int),
        )  # fmt: skip
        loss = float(update(q, target, optimiser, batch, PAPER))

        chosen, valued = (
            numpy_forward(layers, s2[:, 0])[-1].argmax(axis=1),
            numpy_forward(frozen, s2[:, 0])[-1],
        )
        disagreed += int((chosen != valued.argmax(axis=1)).sum())
        y = r + 0.99 * valued[np.arange(32), chosen] * ~end
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
    assert disagreed > 100  # otherwise DQN's target would pass as well
    expected = np.concatenate([array.ravel() for layer in layers for array in layer])
    np.testing.assert_allclose(optimiser.weights.numpy(), expected, rtol=2e-4, atol=2e-6)


def test_update_of_the_tuned_network_against_float64_autograd():
    """The fast float32 path (flat vector, channels last, bytes in) against a plain float64 module and textbook RMSProp."""
    torch.manual_seed(2)
    q, target = make_network(TUNED, spaces(4, (84, 84))), make_network(TUNED, spaces(4, (84, 84)))
    slow, slow_target = (make_network(TUNED, spaces(4, (84, 84))).double() for _ in range(2))
    slow.load_state_dict(q.state_dict())
    slow_target.load_state_dict(target.state_dict())
    optimiser = RMSProp(q, TUNED)
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (16, 5, 84, 84), dtype=np.uint8))
    a, r = torch.from_numpy(rng.integers(4, size=16)), torch.from_numpy(rng.normal(size=16)).float()
    end = torch.from_numpy(rng.random(16) < 0.3)
    update(
        q, target, optimiser, Batch(frames[:, :-1], a, r, frames[:, 1:], end, np.zeros((16, 2), int)), TUNED
    )

    rows = torch.arange(16)
    chosen = on_numbers(slow.layers)(frames[:, 1:].double() / 255).argmax(1)
    valued = on_numbers(slow_target.layers)(frames[:, 1:].double() / 255).detach()
    assert (chosen != valued.argmax(1)).any()
    delta = (
        r.double()
        + 0.99 * valued[rows, chosen] * (~end).double()
        - on_numbers(slow.layers)(frames[:, :-1].double() / 255)[rows, a]
    )
    torch.where(delta.abs() <= 1, delta**2 / 2, delta.abs() - 0.5).sum().backward()
    for fast, plain in zip(q.parameters(), slow.parameters(), strict=True):
        d = plain.grad
        step = 0.00025 * d / torch.sqrt(0.05 * d**2 - (0.05 * d) ** 2 + 0.01)
        torch.testing.assert_close(fast.detach().double(), plain.detach() - step, rtol=1e-3, atol=2e-6)


def test_estimates_are_the_largest_values_of_the_states_seen():
    torch.manual_seed(3)
    q, states = MLP(3, 5), np.random.default_rng(0).normal(size=(4, 1, 5)).astype(np.float32)
    estimates: list[float] = []
    policy = greedy(q, estimates)
    actions = [policy(part, []) for part in (states[:3], states[3:])]
    values = q(torch.from_numpy(states)).detach().numpy()
    assert np.concatenate(actions).tolist() == values.argmax(axis=1).tolist()
    assert estimates == pytest.approx(values.max(axis=1).tolist(), rel=1e-6)


SMALL = TINY | {"batch_size": 8, "evaluation_steps": 100}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, list[list[float]]]:
    """A tiny run of Breakout, and the values its evaluation phases have seen."""
    seen: list[list[float]] = []

    def spy(q, estimates=None):
        seen.append(estimates)
        return greedy(q, estimates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "greedy", spy)
        return train(
            "double_dqn", "breakout", tmp_path_factory.mktemp("unbroken"), SMALL, variant="tuned"
        ), seen


def test_a_tiny_run_reaches_every_branch(unbroken):
    folder, seen = unbroken
    run = json.loads((folder / "run.json").read_text())
    assert run["progress"]["updates"] == 125  # (600 - 100) / 4
    assert run["progress"]["episodes"] >= 1
    counts = run["result"]["counts"]
    assert (counts["target_copies"], counts["evaluations"], counts["ring_wraps"]) == (3, 2, 1)
    curve = list(csv.DictReader((folder / "curve.csv").open()))
    assert float(curve[1]["epsilon"]) == pytest.approx(0.01)
    assert [len(values) for values in seen] == [SMALL["evaluation_steps"]] * 2
    assert [float(row["value_estimate"]) for row in curve] == pytest.approx(
        [np.mean(values) for values in seen], rel=1e-6
    )
    assert all(float(row["value_estimate"]) != float(row["mean_max_q"]) for row in curve)


def test_broken_and_resumed_is_the_same(tmp_path):
    """On four numbers: DQN's runs, which are the same but for the targets, are killed on screens."""
    whole = train("double_dqn", "cartpole", tmp_path / "whole", SMALL)
    folder = train_in_two(317, "double_dqn", "cartpole", tmp_path / "broken", SMALL)
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    one, two = (json.loads((f / "run.json").read_text()) for f in (folder, whole))
    assert one["cost"]["attempts"] == 2
    assert (one["progress"], one["result"]) == (
        two["progress"],
        two["result"],
    )  # with the replay memory's checksum
