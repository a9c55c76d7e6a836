"""Prioritized DQN (2016) against hand-computed numbers, against NumPy in float64, and as tiny runs, broken and resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from common.learning.batch import Batch
from common.learning.priorities import Priorities, Proportional, RankBased
from common.papers import check_defaults, load_paper, resolve
from replications.double_dqn.train import Config as DoubleConfig
from replications.prioritized_dqn import train as script
from replications.prioritized_dqn.train import (
    Config,
    RMSProp,
    importance_exponent,
    importance_weights,
    make_network,
    new_priorities,
    q_loss,
    update,
)
from tests.training import TINY, spaces, train, train_in_two

PAPER = Config()
RANK = Config(**resolve("prioritized_dqn", "rank", "pong", "paper").settings)
SMALL = TINY | {"training_steps": 480, "replay_capacity": 100, "replay_start": 80, "evaluation_period": 240} | {
    "update_period": 8, "batch_size": 8, "evaluation_steps": 40,
}  # fmt: skip
CARTPOLE = {
    "training_steps": 700, "replay_capacity": 200, "replay_start": 100, "evaluation_period": 350, "evaluation_steps": 60,
    "batch_size": 16,
}  # fmt: skip


def test_defaults_are_the_papers():
    assert check_defaults(load_paper("prioritized_dqn")) == []


def test_the_base_is_the_tuned_double_dqn_at_a_quarter_of_the_step_size():
    tuned = resolve("double_dqn", "tuned", "pong", "paper").settings
    differs = {k: v for k, v in vars(PAPER).items() if k not in tuned or v != tuned[k]}
    assert differs == {
        "prioritisation": "proportional", "priority_exponent": 0.6, "priority_floor": 1e-6, "importance_exponent": 0.4,
        "learning_rate": DoubleConfig().learning_rate / 4,
    }  # fmt: skip
    assert set(tuned) <= set(vars(PAPER))
    differs = {k: v for k, v in vars(RANK).items() if v != vars(PAPER)[k]}
    assert differs == {"prioritisation": "rank", "priority_exponent": 0.7, "importance_exponent": 0.5}


def test_what_is_compared_with_what():
    base, rank = (resolve("prioritized_dqn", v, "seaquest", "paper") for v in (None, "rank"))
    assert base.task.published.metric == "prior_ddqn"
    assert (rank.task.published.metric, rank.task.published.value) == ("prior_single", 26357.8)
    assert all(r.protocol.max_frames == 30 * 60 * 60 for r in (base, rank))
    tasks = load_paper("prioritized_dqn").variants[""].tasks
    games = [t for t in tasks.values() if t.kind == "atari"]
    assert len(games) == 57
    assert sorted(t.name for t in games if t.published is None) == ["jamesbond", "riverraid", "up_n_down"]


def test_weights():
    """P = .1 to .4, N = 4, beta 1: N P = .4 to 1.6, so 2.5, 1.25, .833, .625, over their largest; beta 0: all 1."""
    p = np.array([0.1, 0.2, 0.3, 0.4])
    assert ((4 * p) ** -1.0).tolist() == pytest.approx([2.5, 1.25, 0.8333333, 0.625])
    assert importance_weights(p, 4, 1.0).tolist() == pytest.approx([1, 0.5, 1 / 3, 0.25])
    assert importance_weights(p, 4, 0.5).tolist() == pytest.approx([1, 0.5**0.5, (1 / 3) ** 0.5, 0.5])
    assert importance_weights(p, 4, 0.0).tolist() == [1, 1, 1, 1]


def test_beta_reaches_one_at_the_end_of_training_and_not_before():
    assert importance_exponent(0, PAPER) == 0.4
    assert importance_exponent(25_000_000, PAPER) == pytest.approx(0.7)
    assert importance_exponent(49_000_000, PAPER) < 0.99
    assert importance_exponent(50_000_000, PAPER) == 1.0
    assert importance_exponent(25_000_000, RANK) == pytest.approx(0.75)


def test_priorities_are_sizes_of_errors_not_clipped():
    assert new_priorities(torch.tensor([-7.0, 0.0, 0.25]), PAPER).tolist() == pytest.approx(
        [7 + 1e-6, 1e-6, 0.25 + 1e-6]
    )


@pytest.mark.parametrize(
    ("delta", "weight", "gradient"), [(0.5, 1, 0.5), (7, 0.5, 0.5), (-3, 0.25, -0.25), (7, 1, 1)]
)
def test_the_weight_multiplies_the_clipped_error(delta, weight, gradient):
    """w clip(delta): an error of 7 at weight .5 pulls with .5, where clip(w delta) would pull with 1. Summed, not averaged."""
    values = torch.zeros(2, 3, requires_grad=True)
    targets, weights = torch.full((2,), float(delta)), torch.full((2,), float(weight))
    loss, errors = q_loss(values, torch.tensor([1, 1]), targets, weights, 1.0)
    loss.backward()
    assert values.grad.tolist() == [[0, -gradient, 0], [0, -gradient, 0]]
    assert errors.tolist() == [delta, delta]
    assert not errors.requires_grad


def test_update_against_float64_numpy():
    """Double targets, weights, clipped errors, backward pass and RMSProp by hand, for the MLP with its one output bias."""
    config = Config(network="mlp", stack=1)
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    q, target = (make_network(config, spaces(3, (5,))) for _ in range(2))
    numpy_of = lambda net: [p.detach().double().numpy().copy() for p in net.parameters()]  # noqa: E731
    mine, frozen = numpy_of(q), numpy_of(target)
    moments = [[np.zeros_like(a), np.zeros_like(a)] for a in mine]
    optimiser = RMSProp(q, config)

    def forward(p, x):
        hidden = [x]
        for k in (0, 2):
            hidden.append(np.maximum(hidden[-1] @ p[k].T + p[k + 1], 0))
        return hidden, hidden[-1] @ p[4].T + p[5]

    for _ in range(8):
        s, s2 = rng.normal(size=(32, 1, 5)) * 3, rng.normal(size=(32, 1, 5)) * 3
        a, r, end = rng.integers(3, size=32), rng.integers(-1, 2, 32) * 1.0, rng.random(32) < 0.3
        w = rng.random(32)
        batch = Batch(
            torch.from_numpy(s).float(), torch.from_numpy(a), torch.from_numpy(r).float(), torch.from_numpy(s2).float(),
            torch.from_numpy(end), np.zeros((32, 2), int),
        )  # fmt: skip
        loss, errors = update(q, target, optimiser, batch, torch.from_numpy(w).float(), config)

        choice = forward(mine, s2[:, 0])[1].argmax(axis=1)
        y = r + 0.99 * forward(frozen, s2[:, 0])[1][np.arange(32), choice] * ~end
        hidden, values = forward(mine, s[:, 0])
        delta = y - values[np.arange(32), a]
        np.testing.assert_allclose(errors.numpy(), delta, rtol=1e-3, atol=2e-4)
        huber = np.where(abs(delta) <= 1, delta**2 / 2, abs(delta) - 0.5)
        assert float(loss) == pytest.approx((w * huber).sum(), rel=1e-4)
        back = np.zeros((32, 3))
        back[np.arange(32), a] = -w * np.clip(delta, -1, 1)
        gradients = [back.T @ hidden[2], back.sum(keepdims=True).reshape(1)]
        for k in (2, 0):
            back = (back @ mine[k + 2]) * (hidden[k // 2 + 1] > 0)
            gradients[:0] = [back.T @ hidden[k // 2], back.sum(axis=0)]
        for array, d, m in zip(mine, gradients, moments, strict=True):
            m[0], m[1] = 0.95 * m[0] + 0.05 * d, 0.95 * m[1] + 0.05 * d**2
            array -= 0.0000625 * d / np.sqrt(m[1] - m[0] ** 2 + 0.01)
    expected = np.concatenate([array.ravel() for array in mine])
    np.testing.assert_allclose(optimiser.weights.numpy(), expected, rtol=2e-4, atol=2e-6)


# --- tiny runs ---


class Spy(Priorities):
    """Notes what a training draws, and the priorities it gives back."""

    made: ClassVar[list[Spy]] = []

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.drawn, self.given, self.sizes = [], [], []
        Spy.made.append(self)

    def draw(self, rng, batch_size):
        indices, probabilities = super().draw(rng, batch_size)
        self.drawn.append(indices)
        self.sizes.append(len(self))
        return indices, probabilities

    def update(self, indices, priorities):
        assert (indices == self.drawn[-1]).all()  # each batch is given its own priorities back
        super().update(indices, priorities)
        self.given.append(priorities)


def spied(patch: pytest.MonkeyPatch, *arguments, **options) -> tuple[Path, Spy]:
    patch.setattr(script, "Priorities", Spy)
    folder = train(*arguments, **options)
    return folder, Spy.made[-1]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, Spy]:
    with pytest.MonkeyPatch.context() as patch:
        return spied(patch, "prioritized_dqn", "breakout", tmp_path_factory.mktemp("unbroken"), SMALL)


def test_a_tiny_run_reaches_every_branch(unbroken):
    folder, spy = unbroken
    run = json.loads((folder / "run.json").read_text())
    counts = run["result"]["counts"]
    assert run["progress"]["updates"] == len(spy.given) == 50  # (480 - 80) / 8
    assert (counts["target_copies"], counts["evaluations"], counts["ring_wraps"]) == (2, 2, 1)
    curve = list(csv.DictReader((folder / "curve.csv").open()))
    assert [float(row["beta"]) for row in curve] == pytest.approx([0.7, 1.0])
    assert float(curve[1]["epsilon"]) == pytest.approx(0.01)
    assert max(spy.sizes) < SMALL["replay_capacity"]
    assert spy.max_priority == max(1.0, max(p.max() for p in spy.given))
    assert len({round(float(p), 9) for batch in spy.given for p in batch}) > 100  # errors, not a constant


def test_large_errors_are_drawn_more_often(tmp_path, monkeypatch):
    """With priorities that say nothing but which half a slot is in, the favoured half is drawn nine times as often."""

    def half(errors, config):
        return np.where(Spy.made[-1].drawn[-1][:, 1] % 2 == 0, 1.0, 1e-9)

    monkeypatch.setattr(script, "new_priorities", half)
    _, spy = spied(
        monkeypatch,
        "prioritized_dqn",
        "cartpole",
        tmp_path,
        CARTPOLE | {"replay_capacity": 800, "training_steps": 800},
    )
    late = np.concatenate(spy.drawn[-60:])[:, 1] % 2
    assert (late == 0).mean() > 0.9


def same(folder: Path, whole: Path) -> None:
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    one, two = (json.loads((f / "run.json").read_text()) for f in (folder, whole))
    assert one["cost"]["attempts"] == 2
    assert (one["progress"], one["result"]) == (
        two["progress"],
        two["result"],
    )  # with the replay memory's checksum


def same_priorities(one: Priorities, two: Priorities) -> None:
    a, b = one.state_dict(), two.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        pairs = (
            zip(a[name].values(), b[name].values(), strict=True) if name == "order" else [(a[name], b[name])]
        )
        assert all(np.array_equal(x, y) for x, y in pairs), name


@pytest.mark.parametrize(
    ("variant", "order", "settings"),
    [(None, Proportional, {}), ("rank", RankBased, {}), ("rank", RankBased, {"num_envs": 3})],
)
def test_broken_and_resumed_is_the_same(tmp_path, monkeypatch, variant, order, settings):
    options = {"variant": variant}
    whole, spy = spied(
        monkeypatch, "prioritized_dqn", "cartpole", tmp_path / "whole", CARTPOLE | settings, **options
    )
    assert isinstance(spy.order, order)
    assert spy.order.exponent == (0.7 if variant else 0.6)
    assert json.loads((whole / "run.json").read_text())["progress"]["episodes"] > 5
    folder = train_in_two(
        433, "prioritized_dqn", "cartpole", tmp_path / "broken", CARTPOLE | settings, **options
    )
    same(folder, whole)
    same_priorities(Spy.made[-1], spy)
