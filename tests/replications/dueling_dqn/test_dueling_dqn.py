"""Dueling DQN (2016) against hand-computed numbers, against NumPy in float64, and as tiny runs that are broken and resumed."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common.evaluation.protocol import load_weights
from common.learning.batch import Batch
from common.learning.priorities import Priorities
from common.papers import check_defaults, load_paper, resolve
from replications.dueling_dqn.train import (
    Config,
    Dueling,
    RMSProp,
    clip_norm,
    combine,
    make_network,
    update,
)
from tests.training import TINY, on_numbers, spaces, train, train_in_two

PAPER = Config()
SINGLE, PRIORITIZED = (
    Config(**resolve("dueling_dqn", name, "pong", "paper").settings)
    for name in ("single_clip", "prioritized")
)
SCREENS = (84, 84)
SMALL = TINY | {"batch_size": 8, "evaluation_steps": 100, "hidden_units": 64}


def test_defaults_are_the_papers():
    assert check_defaults(load_paper("dueling_dqn")) == []


def test_variants_are_what_the_paper_says_and_nothing_else():
    def differs(config: Config) -> dict:
        return {name: value for name, value in vars(config).items() if value != vars(PAPER)[name]}

    assert differs(SINGLE) == {"dueling": False, "hidden_units": 1024}
    assert differs(PRIORITIZED) == {"prioritized": True}


def test_all_else_is_tuned_double_dqns():
    tuned = resolve("double_dqn", "tuned", "pong", "paper").settings
    shared = {name: value for name, value in vars(PAPER).items() if name in tuned}
    assert {name for name, value in shared.items() if value != tuned[name]} == {"learning_rate"}
    assert set(tuned) - set(shared) == {"shared_bias"}


def test_published_scores_are_each_agents_own():
    paper = load_paper("dueling_dqn")
    found = {v.name: v.tasks["seaquest"].published for v in paper.variants.values()}
    assert (found[""].value, found["prioritized"].value, found["single_clip"]) == (50254.2, 931.6, None)
    assert found["fast"] == found[""]
    games = [{n for n, t in v.tasks.items() if t.kind == "atari"} for v in paper.variants.values()]
    assert [len(g) for g in games] == [57, 57, 57, 57]
    assert games[0] == games[1] == games[2] == games[3]


# --- network ---


def parameters(q: torch.nn.Module) -> int:
    return sum(p.numel() for p in q.parameters())


def test_parameter_counts():
    """The control has about as many: within a tenth of a percent, with the one bias of the tuned Double DQN."""
    assert parameters(make_network(PAPER, spaces(4, SCREENS))) == 3_292_837
    assert parameters(make_network(SINGLE, spaces(4, SCREENS))) == 77_984 + 3136 * 1024 + 1024 + 1024 * 4 + 1
    torso = make_network(PAPER, spaces(4, SCREENS)).layers[:-1]
    assert parameters(torso) == 77_984


def test_streams_are_combined_by_equation_9():
    """V = 2 and A = [1, 3, 5] give [0, 2, 4], whatever is added to A; subtracting the maximum would give [-2, 0, 2]."""
    values, advantages = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0, 3.0, 5.0], [0.0, 0.0, 6.0]])
    expected = [[0.0, 2.0, 4.0], [-3.0, -3.0, 3.0]]
    assert combine(values, advantages).tolist() == expected
    assert combine(values, advantages + torch.tensor([[7.0], [-5.0]])).tolist() == expected


def test_the_network_is_the_torso_and_both_streams():
    torch.manual_seed(0)
    q = make_network(PAPER, spaces(4, SCREENS))
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    features = on_numbers(q.layers[:-1])(states.float() / 255)
    assert features.shape == (3, 3136)
    head = q.layers[-1]
    value, advantage = head.values(features), head.advantages(features)
    assert (value.shape, advantage.shape) == ((3, 1), (3, 4))
    torch.testing.assert_close(q(states), value + advantage - advantage.mean(1, keepdim=True))


def test_the_gradient_into_the_features_is_rescaled_once():
    """Both streams' sum times 1/sqrt(2), however often the network is used; the streams' own gradients are untouched."""
    torch.manual_seed(0)
    head = Dueling(6, 5, 3)
    features = torch.randn(4, 6, requires_grad=True)
    pull = torch.randn(4, 3)
    (head(features) * pull).sum().backward()
    ours, own = features.grad.clone(), [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    features = features.detach().requires_grad_()
    (combine(head.values(features), head.advantages(features)) * pull).sum().backward()
    torch.testing.assert_close(ours, features.grad * 0.7071068)
    for mine, plain in zip(own, head.parameters(), strict=True):
        torch.testing.assert_close(mine, plain.grad)


def test_every_convolution_sees_the_rescaled_gradient():
    torch.manual_seed(1)
    q = make_network(PAPER, spaces(4, SCREENS))
    states = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    for _ in range(2):  # a hook that stayed would rescale again
        q.zero_grad()
        q(states)[:, 1].sum().backward()
    ours = [layer.weight.grad.clone() for layer in q.layers[:-1] if hasattr(layer, "weight")]
    q.zero_grad()
    features = on_numbers(q.layers[:-1])(states.float() / 255)
    combine(q.layers[-1].values(features), q.layers[-1].advantages(features))[:, 1].sum().backward()
    plain = [layer.weight.grad for layer in q.layers[:-1] if hasattr(layer, "weight")]
    assert len(ours) == 3
    for mine, without in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, without / math.sqrt(2), rtol=1e-4, atol=1e-7)


def test_one_stream_is_not_rescaled_and_shares_its_bias():
    torch.manual_seed(0)
    q = make_network(Config(network="mlp", stack=1, dueling=False, hidden_units=16), spaces(3, (5,)))
    states = torch.randn(4, 1, 5)
    q(states)[:, 1].sum().backward()
    mine = q.layers[1].weight.grad.clone()
    q.zero_grad()
    x = q.layers[:3](states)
    head = q.layers[3]
    (torch.relu(x @ head[0].weight.T + head[0].bias) @ head[2].weight[1] + head[2].bias).sum().backward()
    torch.testing.assert_close(mine, q.layers[1].weight.grad)
    assert head[2].bias.shape == (1,)


def test_weights_of_the_other_network_are_refused():
    with pytest.raises(ValueError, match=r"layers\.7\."):
        load_weights(
            make_network(PAPER, spaces(4, SCREENS)), make_network(SINGLE, spaces(4, SCREENS)).state_dict()
        )


# --- learning rule ---


def test_a_long_gradient_is_shortened_and_a_short_one_left_alone():
    for length, expected in ((50.0, 10.0), (10.0, 10.0), (2.5, 2.5), (0.0, 0.0)):
        gradient = torch.tensor([0.6, 0.0, -0.8]) * length
        clip_norm(gradient, 10.0)
        assert gradient.tolist() == pytest.approx([0.6 * expected, 0, -0.8 * expected])


@pytest.mark.parametrize("largest", [10.0, 1000.0])
def test_update_against_float64_numpy(largest):
    """Streams, rescaled gradient, weights, clipped error and norm, backward pass and RMSProp by hand; eight updates in a row."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    config = Config(network="mlp", stack=1, hidden_units=16, gradient_clip=largest)
    q, target = (make_network(config, spaces(3, (5,))) for _ in range(2))
    names = [
        "layers.1",
        "layers.3.values.0",
        "layers.3.values.2",
        "layers.3.advantages.0",
        "layers.3.advantages.2",
    ]
    keys = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    assert [name for name, _ in q.named_parameters()] == keys

    def numbers(net: torch.nn.Module) -> dict[str, np.ndarray]:
        return {k: v.detach().double().numpy().copy() for k, v in net.state_dict().items()}

    def forward(p: dict, x: np.ndarray) -> tuple:
        f = np.maximum(x @ p["layers.1.weight"].T + p["layers.1.bias"], 0)
        hidden, out = {}, {}
        for name in ("values", "advantages"):
            w = {k: p[f"layers.3.{name}.{k}"] for k in ("0.weight", "0.bias", "2.weight", "2.bias")}
            hidden[name] = np.maximum(f @ w["0.weight"].T + w["0.bias"], 0)
            out[name] = hidden[name] @ w["2.weight"].T + w["2.bias"]
        return f, hidden, out["values"] + out["advantages"] - out["advantages"].mean(axis=1, keepdims=True)

    p, frozen = numbers(q), numbers(target)
    g, s = ({k: np.zeros_like(v) for k, v in p.items()} for _ in range(2))
    optimiser, clipped, rows = RMSProp(q, config), 0, np.arange(32)
    for _ in range(8):
        x, x2 = rng.normal(size=(32, 5)) * 3, rng.normal(size=(32, 5)) * 3
        a, r, end = rng.integers(3, size=32), rng.integers(-3, 4, 32) * 1.0, rng.random(32) < 0.3
        weights = rng.uniform(0.2, 1, 32)
        tensor = lambda array: torch.from_numpy(array[:, None]).float()  # noqa: E731
        batch = Batch(
            tensor(x),
            torch.from_numpy(a),
            torch.from_numpy(r).float(),
            tensor(x2),
            torch.from_numpy(end),
            np.zeros((32, 2), int),
        )
        loss, errors = update(q, target, optimiser, batch, torch.from_numpy(weights).float(), config)

        y = r + 0.99 * forward(frozen, x2)[2][rows, forward(p, x2)[2].argmax(axis=1)] * ~end
        f, hidden, values = forward(p, x)
        delta = y - values[rows, a]
        np.testing.assert_allclose(errors.numpy(), delta, rtol=1e-3, atol=1e-4)
        huber = np.where(abs(delta) <= 1, delta**2 / 2, abs(delta) - 0.5)
        assert float(loss) == pytest.approx((weights * huber).sum(), rel=1e-4)
        back = np.zeros((32, 3))
        back[rows, a] = -weights * np.clip(delta, -1, 1)
        d, into = {}, np.zeros_like(f)
        for name, b in (
            ("values", back.sum(axis=1, keepdims=True)),
            ("advantages", back - back.mean(axis=1, keepdims=True)),
        ):
            prefix = f"layers.3.{name}"
            d[f"{prefix}.2.weight"], d[f"{prefix}.2.bias"] = b.T @ hidden[name], b.sum(axis=0)
            b = (b @ p[f"{prefix}.2.weight"]) * (hidden[name] > 0)
            d[f"{prefix}.0.weight"], d[f"{prefix}.0.bias"] = b.T @ f, b.sum(axis=0)
            into += b @ p[f"{prefix}.0.weight"]
        into = into / np.sqrt(2) * (f > 0)
        d["layers.1.weight"], d["layers.1.bias"] = into.T @ x, into.sum(axis=0)
        norm = np.sqrt(sum((v**2).sum() for v in d.values()))
        clipped += norm > largest
        for k in keys:
            step = d[k] * min(1, largest / norm)
            g[k], s[k] = 0.95 * g[k] + 0.05 * step, 0.95 * s[k] + 0.05 * step**2
            p[k] -= 0.0000625 * step / np.sqrt(s[k] - g[k] ** 2 + 0.01)
    assert clipped == (8 if largest == 10 else 0)
    expected = np.concatenate([p[k].ravel() for k in keys])
    np.testing.assert_allclose(optimiser.weights.numpy(), expected, rtol=2e-4, atol=2e-6)


# --- tiny runs ---


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """The prioritized variant: it has every branch that the base has, and one more part in its checkpoints."""
    return train("dueling_dqn", "breakout", tmp_path_factory.mktemp("unbroken"), SMALL, variant="prioritized")


def test_a_tiny_run_reaches_every_branch(unbroken):
    run = json.loads((unbroken / "run.json").read_text())
    assert run["progress"]["updates"] == 125  # (600 - 100) / 4
    assert run["progress"]["episodes"] >= 1
    counts = run["result"]["counts"]
    assert (counts["target_copies"], counts["evaluations"], counts["ring_wraps"]) == (3, 2, 1)
    curve = list(csv.DictReader((unbroken / "curve.csv").open()))
    assert [float(row["epsilon"]) for row in curve] == pytest.approx([1 - 0.99 * 200 / 300, 0.01])
    assert all(float(row["loss"]) > 0 and row["value_estimate"] for row in curve)


@pytest.mark.parametrize("prioritized", [False, True])
def test_broken_and_resumed_is_the_same(prioritized, tmp_path):
    """On four numbers: DQN's runs, whose loop this is but for the priorities, are killed on screens."""
    settings = SMALL | {"prioritized": prioritized}
    whole = train("dueling_dqn", "cartpole", tmp_path / "whole", settings)
    folder = train_in_two(317, "dueling_dqn", "cartpole", tmp_path / "broken", settings)
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    one, two = (json.loads((f / "run.json").read_text()) for f in (folder, whole))
    assert one["cost"]["attempts"] == 2
    assert (one["progress"], one["result"]) == (
        two["progress"],
        two["result"],
    )  # with the replay memory's checksum


def test_priorities_matter_and_are_looked_up_in_the_agents_errors(tmp_path, monkeypatch):
    """What `train` hands to the priorities is the size of the errors; the base variant has none, and learns otherwise."""
    given: list[np.ndarray] = []
    real = Priorities.update

    def spy(self, indices, priorities):
        given.append(np.array(priorities))
        real(self, indices, priorities)

    monkeypatch.setattr(Priorities, "update", spy)
    toy = {"training_steps": 1500, "replay_start": 200, "evaluation_period": 700, "evaluation_steps": 200}
    plain = train("dueling_dqn", "cartpole", tmp_path / "plain", toy, budget="hour")
    assert given == []
    ranked = train("dueling_dqn", "cartpole", tmp_path / "ranked", toy | {"prioritized": True}, budget="hour")
    updates = json.loads((ranked / "run.json").read_text())["progress"]["updates"]
    assert len(given) == updates == 650
    assert all((p >= 0).all() and p.shape == (64,) for p in given)
    assert (np.concatenate(given) > 0).mean() > 0.99  # the size of an error, whichever its sign
    assert max(p.max() for p in given) > 1  # not clipped
    assert (plain / "model.safetensors").read_bytes() != (ranked / "model.safetensors").read_bytes()
