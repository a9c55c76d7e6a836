"""DQN (2013) against hand-computed numbers, against NumPy in float64, stopped and resumed, and what sets it apart from 2015."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from common.evaluation.protocol import evaluate_run
from common.learning.batch import Batch
from common.papers import check_defaults, load_paper, resolve
from common.runs import run as runs
from replications.dqn_2013 import train as script
from replications.dqn_2013.train import (
    MLP,
    Config,
    Network2013,
    RMSProp,
    make_network,
    q_loss,
    q_targets,
    update,
)
from tests.training import on_numbers, open_run, spaces, train

PAPER = Config()
TINY = {
    "training_steps": 500, "replay_capacity": 150, "replay_start": 100, "final_exploration_step": 300, "batch_size": 8,
    "evaluation_period": 250, "evaluation_steps": 200, "held_out_states": 20,
}  # fmt: skip


def test_defaults_are_the_papers():
    paper = load_paper("dqn_2013")
    assert check_defaults(paper) == []
    frames = {
        name: (resolve(paper, None, name, "paper").frames, task.paper_frames)
        for name, task in paper.tasks.items()
    }
    assert frames["pong"] == (40_000_000, 40_000_000)
    assert frames["space_invaders"] == (30_000_000, 30_000_000)
    skips = {name: resolve(paper, None, name, "paper").settings["frame_skip"] for name in paper.tasks}
    assert {name for name, skip in skips.items() if skip == 3} == {"space_invaders"}
    scores = {name: task.published.value for name, task in paper.tasks.items() if task.published}
    assert (scores["pong"], scores["breakout"], scores["space_invaders"], len(scores)) == (20, 168, 581, 7)


def test_network_shapes_and_parameter_count():
    q = Network2013(4)
    assert sum(p.numel() for p in q.parameters()) == 677_172
    x = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    sizes, y = [], x.float() / 255
    for layer in on_numbers(q.layers):
        y = layer(y)
        sizes.append(tuple(y.shape[1:]))
    assert sizes == [(16, 20, 20)] * 2 + [(32, 9, 9)] * 2 + [(2592,)] + [(256,)] * 2 + [(4,)]
    assert torch.allclose(q(x), y, atol=1e-5)
    assert type(make_network(PAPER, spaces(4, (84, 84)))) is Network2013


def test_the_error_is_not_clipped_and_the_gradient_is_the_mean():
    gradients = {}
    for delta in (1.0, 5.0, -3.0):
        values = torch.zeros(2, 3, requires_grad=True)
        q_loss(values, torch.tensor([1, 1]), torch.tensor([delta, delta])).backward()
        gradients[delta] = values.grad[0].tolist()
        assert (
            values.grad[0].tolist() == values.grad[1].tolist() == [0, -delta / 2, 0]
        )  # half of -(y - Q): two samples
    assert gradients[5.0][1] == 5 * gradients[1.0][1]


def test_a_terminal_target_is_exactly_the_reward():
    targets = q_targets(
        torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 5.0], [7.0, -2.0]]), torch.tensor([False, True]), 0.95
    )
    assert targets.tolist() == pytest.approx([1 + 0.95 * 5, -1.0])
    assert targets[1] == -1.0


def test_rmsprop_first_step():
    module = torch.nn.Linear(1, 1, bias=False)
    optimiser, before = RMSProp(module, PAPER), module.weight.item()
    optimiser.gradient.fill_(2.0)
    optimiser.step()
    assert before - module.weight.item() == pytest.approx(0.0002 * 2 / math.sqrt(0.01 * 4 + 1e-6), rel=1e-4)


def forward(layers, x):
    activations = [x]
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
        activations.append(x)
    return activations


def test_update_against_float64_numpy():
    """Ten updates in a row; targets come from the same network just before each, and pass no gradient."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    q = MLP(3, 5)
    linear = [m for m in q.layers if isinstance(m, torch.nn.Linear)]
    layers = [[p.detach().double().numpy().copy() for p in (m.weight, m.bias)] for m in linear]
    squares = [np.zeros_like(a) for layer in layers for a in layer]
    optimiser = RMSProp(q, PAPER)
    for _ in range(10):
        s, s2 = rng.normal(size=(32, 1, 5)) * 3, rng.normal(size=(32, 1, 5)) * 3
        a, r, end = rng.integers(3, size=32), rng.integers(-5, 6, 32) * 1.0, rng.random(32) < 0.3
        batch = Batch(
            torch.from_numpy(s).float(), torch.from_numpy(a), torch.from_numpy(r).float(), torch.from_numpy(s2).float(),
            torch.from_numpy(end), np.zeros((32, 2), int),
        )  # fmt: skip
        loss = float(update(q, optimiser, batch, PAPER))
        y = r + 0.95 * forward(layers, s2[:, 0])[-1].max(axis=1) * ~end
        acts = forward(layers, s[:, 0])
        delta = y - acts[-1][np.arange(32), a]
        assert loss == pytest.approx(np.mean(delta**2) / 2, rel=1e-4)
        back = np.zeros_like(acts[-1])
        back[np.arange(32), a] = -delta / 32
        gradients = []
        for i in range(len(layers) - 1, -1, -1):
            gradients[:0] = [back.T @ acts[i], back.sum(axis=0)]
            back = (back @ layers[i][0]) * (acts[i] > 0)
        flat = [array for layer in layers for array in layer]
        for array, d, square in zip(flat, gradients, squares, strict=True):
            square[:] = 0.99 * square + 0.01 * d**2
            array -= 0.0002 * d / np.sqrt(square + 1e-6)
    expected = np.concatenate([array.ravel() for layer in layers for array in layer])
    np.testing.assert_allclose(optimiser.weights.numpy(), expected, rtol=1e-3, atol=1e-5)


class Watched:
    """What the loop puts into the replay memory and asks of an update."""

    def __init__(self, monkeypatch):
        self.rewards, self.terminals, self.updates = [], [], 0
        real_add, real_update = script.Replay.add, script.update

        def add(replay, actions, rewards, terminals, obs):
            self.rewards += rewards.tolist()
            self.terminals += terminals.tolist()
            return real_add(replay, actions, rewards, terminals, obs)

        def one_update(*arguments):
            self.updates += 1
            return real_update(*arguments)

        monkeypatch.setattr(script.Replay, "add", add)
        monkeypatch.setattr(script, "update", one_update)


def read(folder, name):
    with open(folder / name) as file:
        return list(csv.DictReader(file))


def test_a_whole_small_run_and_its_exact_resume(tmp_path, monkeypatch):
    seen = Watched(monkeypatch)
    whole = train("dqn_2013", "breakout", tmp_path / "whole", TINY)
    written = json.loads((whole / "run.json").read_text())
    assert seen.updates == written["progress"]["updates"] == 400  # every step after the replay start
    assert written["result"]["counts"]["evaluations"] == 2
    assert written["result"]["counts"]["ring_wraps"] >= 1
    assert written["result"]["best_agent_step"] == 500  # the last network
    assert set(seen.rewards) <= {-1.0, 0.0, 1.0}
    assert 1.0 in seen.rewards
    episodes = read(whole, "episodes.csv")
    assert sum(seen.terminals) == len(episodes)  # five lives make one game: a lost life ends nothing
    curve = read(whole, "curve.csv")
    assert next(float(row["mean_max_q"]) for row in curve) != [float(row["mean_max_q"]) for row in curve][1]

    # stopped by a signal in the middle of an epoch, resumed by the same command: the same bytes
    broken = tmp_path / "broken"
    run, module, config, _ = open_run("dqn_2013", "breakout", broken, TINY)

    class Stopped(Exception):
        pass

    def leave(code):
        raise Stopped(code)

    monkeypatch.setattr(os, "_exit", leave)
    tick = run.tick

    def stop_at_333(at):
        if at.agent_steps == 333:
            run._on_signal(signal.SIGTERM, None)
        tick(at)

    run.tick = stop_at_333
    with pytest.raises(Stopped, match=str(runs.STOPPED)):
        module.train(config, run)
    run.close()
    again = train("dqn_2013", "breakout", broken, TINY)
    for name in ("curve.csv", "episodes.csv", "model.safetensors"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name
    resumed = json.loads((again / "run.json").read_text())
    assert resumed["cost"]["attempts"] == 2
    assert resumed["result"]["counts"]["replay_sha256"] == written["result"]["counts"]["replay_sha256"]
    assert resumed["progress"] == written["progress"]

    evaluation = evaluate_run(whole, "cpu")
    assert (evaluation["weights"], evaluation["weights_agent_step"]) == ("last", 500)
    assert len({episode["length"] for episode in evaluation["episodes"] + evaluation["extra_episodes"]}) > 1
    assert (whole / "episode.mp4").stat().st_size > 1000


def test_fields_of_2015_that_are_gone():
    from replications.dqn.train import Config as Config2015

    ours, theirs = ({f.name for f in dataclasses.fields(c)} for c in (Config, Config2015))
    assert theirs - ours == {
        "life_loss_terminal", "reward_clip", "replay", "target_network", "target_period", "error_clip", "gradient_momentum",
        "bfloat16",
    }  # fmt: skip
    assert ours <= theirs
