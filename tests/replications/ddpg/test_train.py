"""DDPG against hand-computed numbers, against its formulas in float64, and in tiny trainings whose numbers are looked at."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from common import papers
from common.environments.vector import GymEnvs
from common.errors import UserError
from common.evaluation.protocol import evaluate_run
from common.learning.batch import Batch
from common.papers import check_defaults, load_paper
from common.runs import command_line
from common.runs.provenance import modules_that_count
from common.runs.run import Run
from replications.ddpg import train as ddpg
from replications.ddpg.plumbing import adam, deterministic, in_torch
from replications.ddpg.train import (
    Config,
    make_network,
    make_policy,
    noise_after,
    policy_gradient,
    q_targets,
)
from tests.replications.ddpg.twin import Twin, doubles, tensors
from tests.training import spaces, train, train_in_two

PAPER = Config()
PLAIN = dataclasses.replace(PAPER, batch_norm=False)
TINY = {
    "training_steps": 330, "replay_capacity": 120, "replay_start": 70, "batch_size": 8, "evaluation_period": 110,
    "evaluation_steps": 210,
}  # fmt: skip


def test_defaults_are_the_papers():
    assert check_defaults(load_paper("ddpg")) == []


# --- networks ---


def count(*modules) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameter_counts_of_three_numbers_and_one_action():
    nets = make_network(PLAIN, spaces(1, (3,), continuous=True))
    assert count(nets.actor) == 122_201
    assert count(nets.critic.second) == 401 * 300 + 300 == 120_600
    assert count(nets.critic) == 4 * 400 + 120_600 + 301
    normed = make_network(PAPER, spaces(1, (3,), continuous=True))
    assert count(normed.actor) - count(nets.actor) == 2 * (3 + 400 + 300)
    assert count(normed.critic) - count(nets.critic) == 2 * (3 + 400)  # nothing from the action on


def test_initial_weights():
    """Uniform within one over the root of the fan-in, which is 400 + A where the action enters; within .003 in the last layers."""
    torch.manual_seed(0)
    nets = make_network(PAPER, spaces(6, (17,), continuous=True))
    a, c = nets.actor.layers, nets.critic
    for layer, bound in (
        (a[2], 17**-0.5), (a[5], 400**-0.5), (c.first[2], 17**-0.5), (c.second, 406**-0.5), (a[8], 0.003), (c.value, 0.003),
    ):  # fmt: skip
        weight, bias = layer.weight.detach(), layer.bias.detach()
        assert 0.97 * bound < weight.abs().max() <= bound * (1 + 1e-6)
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert bias.abs().max() <= bound * (1 + 1e-6)
        assert bias.any()


@pytest.mark.parametrize("config", [PAPER, PLAIN])
def test_acting_in_numpy_is_the_network_in_evaluation_mode(config):
    """Of the weights and running moments of now: it follows an update."""
    torch.manual_seed(0)
    nets = make_network(config, spaces(2, (5,), continuous=True))
    mu, _ = deterministic(nets.actor)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(7, 1, 5)).astype(np.float32) * 4 + 2
    optimiser = adam(nets.actor, 0.01)
    mu, _ = deterministic(nets.actor)  # `adam` moved the weights
    for _ in range(3):
        nets.train()
        optimiser.zero_grad(set_to_none=False)
        policy_gradient(nets.actor, nets.critic, torch.from_numpy(states))
        optimiser.step()
        nets.eval()
        expected = nets.actor(torch.from_numpy(states)).detach().numpy()
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(mu(states), expected, atol=2e-6)
        np.testing.assert_allclose(mu(states[2:3]), expected[2:3], atol=2e-6)
        np.testing.assert_array_equal(in_torch(nets.actor)(states), expected)
    batch_moments = nets.train().actor(torch.from_numpy(states)).detach().numpy()
    assert np.allclose(batch_moments, expected, atol=1e-4) == (not config.batch_norm)


def test_actions_reach_the_environments_bounds_and_no_further():
    envs = GymEnvs("InvertedPendulum-v4", 1, 1)
    nets = make_network(PAPER, envs)
    _, in_bounds = deterministic(nets.actor)
    actions = in_bounds(np.array([[-1.0], [0.5], [1.0]]))
    assert actions.tolist() == [[-3.0], [1.5], [3.0]]
    assert actions.dtype == np.float32
    odd = spaces(1, (3,), continuous=True)
    odd.action_bounds = np.array([-2], np.float32), np.array([4], np.float32)
    _, in_bounds = deterministic(make_network(PAPER, odd).actor)
    assert in_bounds(np.array([[-1.0], [0.0], [1.0]])).tolist() == [[-2.0], [1.0], [4.0]]


# --- learning rule ---


def test_targets_bootstrap_unless_terminal():
    """Terminal: y = r exactly."""
    targets = q_targets(
        torch.tensor([1.0, -1.0]), torch.tensor([5.0, 7.0]), torch.tensor([False, True]), 0.99
    )
    assert targets.tolist() == pytest.approx([1 + 0.99 * 5, -1.0], rel=1e-7)
    assert targets[1] == -1.0


def test_soft_update():
    """From theta = 1, theta' = 0: .001 after one step, 1 - .999^3 after three."""
    target, source = [torch.zeros(2)], [torch.ones(2)]
    ddpg.soft_update(target, source, PAPER.target_rate)
    assert target[0].tolist() == pytest.approx([0.001, 0.001])
    for _ in range(2):
        ddpg.soft_update(target, source, PAPER.target_rate)
    assert target[0].tolist() == pytest.approx([1 - 0.999**3] * 2)
    assert source[0].tolist() == [1, 1]


class Still:
    def standard_normal(self, shape):
        return np.zeros(shape)


def test_noise_returns_to_zero_and_has_its_spread():
    """theta .15, no draw, from 1: .85. In the long run .2 / sqrt(1 - .85^2) = .380, and .85 from one step to the next."""
    x = torch.ones(1, 1, dtype=torch.float64)
    assert noise_after(x, Still(), PAPER).item() == pytest.approx(0.85)
    quarter = dataclasses.replace(PAPER, noise_step=0.25)
    assert noise_after(x, Still(), quarter).item() == pytest.approx(1 - 0.15 / 4)
    rng = np.random.default_rng(0)
    assert noise_after(0 * x, rng, quarter).item() == pytest.approx(
        0.2 * 0.5 * np.random.default_rng(0).standard_normal()
    )
    x, seen = torch.zeros(4000, 2, dtype=torch.float64), []
    for _ in range(60):
        x = noise_after(x, rng, PAPER)
        seen.append(x.numpy())
    assert seen[-1].std() == pytest.approx(0.2 / math.sqrt(1 - 0.85**2), rel=0.02)
    assert abs(seen[-1].mean()) < 0.02
    assert np.corrcoef(seen[-2].ravel(), seen[-1].ravel())[0, 1] == pytest.approx(0.85, abs=0.01)
    assert abs(np.corrcoef(seen[-1].T)[0, 1]) < 0.06  # each action has its own


def as_batch(s, a, r, s2, end) -> Batch:
    return Batch(s.float(), a.float(), r.float(), s2.float(), end)


# A bias before batch normalisation has no gradient but that of rounding, of which Adam makes a step
IN_FRONT = ("actor.layers.1.bias", "actor.layers.2.bias", "actor.layers.5.bias", "critic.first.1.bias")


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("target_network", [True, False])
def test_update_against_its_formulas_in_float64(batch_norm, target_network):
    """Targets, both losses, batch normalisation, L2, Adam and the soft update: six updates in a row."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    c = dataclasses.replace(PAPER, batch_norm=batch_norm, target_network=target_network, target_rate=0.1)
    nets, targets = (make_network(c, spaces(2, (5,), continuous=True)) for _ in range(2))
    initial, twin = doubles(nets), Twin(nets, targets, c)
    optimisers = {
        "actor": adam(nets.actor, c.actor_learning_rate),
        "critic": adam(nets.critic, c.critic_learning_rate, c.weight_decay),
    }
    following, followed = (list(net.parameters()) for net in (targets, nets))
    for _ in range(6):
        batch = tensors(rng, 32, 5, 2)
        loss, value = ddpg.update(
            nets, targets if target_network else nets, optimisers, as_batch(*batch), c
        ).tolist()
        ddpg.soft_update(following, followed, c.target_rate)
        expected = twin.update(*(t.float().double() if t.is_floating_point() else t for t in batch))
        assert loss == pytest.approx(expected[0], rel=1e-3)
        assert value == pytest.approx(expected[1], rel=1e-3, abs=1e-4)
    for net, own in ((nets, twin.net), (targets, twin.target)):
        for name, tensor in doubles(net).items():
            if name.split(".")[-1] not in ("centre", "reach") and not (batch_norm and name in IN_FRONT):
                moved = (own[name] - initial[name]).norm() if net is nets else own[name].norm()
                assert (tensor - own[name]).norm() <= 0.05 * moved, name


def test_the_actors_step_leaves_the_critic_alone():
    torch.manual_seed(0)
    nets = make_network(PAPER, spaces(2, (5,), continuous=True))
    adam(nets.critic, 1.0)
    ddpg.by_minibatch(nets.actor, remembered=True)
    ddpg.by_minibatch(nets.critic, remembered=False)
    before, moments = doubles(nets.critic), nets.actor.layers[1].running_mean.clone()
    policy_gradient(nets.actor, nets.critic, torch.randn(16, 1, 5) + 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in doubles(nets.critic).items())
    assert not any(p.grad.any() for p in nets.critic.parameters())
    assert all(p.grad is not None for p in nets.actor.parameters())
    assert not torch.equal(moments, nets.actor.layers[1].running_mean)


@pytest.mark.parametrize("target_network", [True, False])
def test_running_moments_take_the_states_once_an_update_and_are_used_for_acting_alone(target_network):
    """Section 3. A tenth of a minibatch's moments; nothing of the next states, nor of the critic in the actor's step."""
    torch.manual_seed(0)
    nets, targets = (make_network(PAPER, spaces(2, (5,), continuous=True)) for _ in range(2))
    optimisers = {who: adam(getattr(nets, who), 0.0) for who in ("actor", "critic")}
    s, a, r, s2, end = tensors(np.random.default_rng(0), 32, 5, 2)
    batch, bootstrap = as_batch(s, a, r, s2 + 100, end), targets if target_network else nets

    def step() -> list[float]:
        return ddpg.update(nets, bootstrap, optimisers, batch, PAPER).tolist()

    first = step()
    for layer in (nets.actor.layers[1], nets.critic.first[1]):
        torch.testing.assert_close(layer.running_mean, 0.1 * batch.states[:, 0].mean(0))
        torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * batch.states[:, 0].var(0))
    for layer in (targets.actor.layers[1], targets.critic.first[1]):
        assert not layer.running_mean.any()
    for net in (nets, targets):
        for name, moment in net.named_buffers():
            if "running" in name:
                moment.fill_(3)
    assert step() == first  # no step was taken, and learning looks at no running moment
    assert not np.allclose(deterministic(nets.actor)[0](s.float().numpy()), nets.actor(s.float()).detach())


def test_decay_is_in_the_critics_gradient_and_in_nothing_else():
    """Without any other gradient, Adam's first step of a decayed weight is the learning rate towards zero, whatever its size."""
    nets = make_network(PLAIN, spaces(1, (3,), continuous=True))
    for net, decay in ((nets.actor, 0.0), (nets.critic, PAPER.weight_decay)):
        weights = torch.cat([p.detach().flatten() for p in net.parameters()])
        optimiser = adam(net, 0.001, decay)
        optimiser.step()
        moved = weights - torch.cat([p.detach().flatten() for p in net.parameters()])
        if not decay:
            assert not moved.any()
            continue
        large = weights.abs() > 1e-3
        torch.testing.assert_close(moved[large], 0.001 * weights[large].sign(), rtol=2e-2, atol=1e-6)


# --- tiny trainings ---


def test_a_tiny_training_leaves_what_it_should(tmp_path):
    folder = train("ddpg", "pendulum", tmp_path, TINY)
    run = json.loads((folder / "run.json").read_text())
    assert run["progress"] == {"agent_steps": 330, "updates": 261, "episodes": 1, "frames": 330}
    assert run["result"]["counts"]["evaluations"] == 3
    assert run["result"]["counts"]["ring_wraps"] == 0  # 120 slots and 300 of slack
    curve = list(csv.DictReader((folder / "curve.csv").open()))
    assert [row["agent_steps"] for row in curve] == ["110", "220", "330"]
    assert all(float(row["loss"]) > 0 and float(row["mean_q"]) != 0 for row in curve)
    evaluation = evaluate_run(folder, "cpu")
    assert len(evaluation["episodes"]) == 2
    assert {e["length"] for e in evaluation["episodes"]} == {200}


@pytest.mark.parametrize(
    ("variant", "task"),
    [(None, "hopper"), ("no_target_network", "reacher"), ("no_batch_norm", "inverted_pendulum")],
)
def test_every_variant_trains(variant, task, tmp_path):
    folder = train(
        "ddpg", task, tmp_path, TINY | {"training_steps": 120, "evaluation_steps": 20}, variant=variant
    )
    run = json.loads((folder / "run.json").read_text())
    assert run["progress"]["updates"] == 51


@pytest.mark.parametrize(("task", "phase"), [("reacher", 1), ("pendulum", 2)])
def test_the_networks_kept_are_those_that_the_protocol_names(task, phase, tmp_path, monkeypatch):
    """The best of three phases where scores of others are compared with; on Pendulum the last ones. What plays is what learns."""
    scores, seen, finish = iter([[1.0], [5.0], [2.0]]), [], Run.finish

    def evaluated(run, policy, progress):
        seen.append(doubles(run.parts["nets"]))
        actor = copy.deepcopy(run.parts["nets"].actor).eval()
        _, in_bounds = deterministic(actor)
        states = np.random.default_rng(0).normal(size=(9, 1, actor.layers[2].in_features)).astype(np.float32)
        expected = in_bounds(actor(torch.from_numpy(states)).detach().numpy())
        np.testing.assert_allclose(policy(states, []), expected, atol=1e-6)
        return np.array(next(scores))

    def finished(run, progress, model, replay=None):
        seen.append(doubles(model))
        finish(run, progress, model, replay)

    monkeypatch.setattr(Run, "evaluate", evaluated)
    monkeypatch.setattr(Run, "finish", finished)
    train("ddpg", task, tmp_path, TINY | {"training_steps": 90, "evaluation_period": 30, "replay_start": 20})
    assert len(seen) == 4
    same = [all(torch.equal(seen[3][name], t) for name, t in net.items()) for net in seen[:3]]
    assert same == [k == phase for k in range(3)]


@pytest.mark.parametrize("steps", [100, 230])
def test_killed_and_resumed_it_ends_with_the_same_bytes(steps, tmp_path, monkeypatch):
    """Before and after the ring has wrapped; in the middle of an episode, whose noise goes on."""
    tiny = TINY | {"training_steps": 500, "evaluation_steps": 20}
    whole = train("ddpg", "pendulum", tmp_path / "whole", tiny)
    broken = train_in_two(steps, "ddpg", "pendulum", tmp_path / "broken", tiny)
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    counts = [json.loads((f / "run.json").read_text())["result"]["counts"] for f in (whole, broken)]
    assert counts[0] == counts[1]
    assert counts[0]["ring_wraps"] == 1


def test_a_training_rounds_denormal_numbers_to_zero(tmp_path):
    """Decay draws weights to where matrix products take many times as long."""
    small = torch.tensor([1e-30])
    assert (small * 1e-10).item() > 0
    train("ddpg", "pendulum", tmp_path, TINY | {"training_steps": 90, "evaluation_steps": 20})
    assert (small * 1e-10).item() == 0


# --- the paper as data ---


def test_the_compared_scores_and_the_tasks():
    paper = load_paper("ddpg")
    printed = {
        "half_cheetah": 3305.6, "hopper": 2020.46, "walker2d": 1843.85, "reacher": -6.51, "inverted_pendulum": 1000,
    }  # fmt: skip
    assert {n: t.published.value for n, t in paper.tasks.items() if t.published} == printed
    for name in printed:
        task, resolved = paper.tasks[name], papers.resolve(paper, None, name, "paper")
        assert task.env_id.endswith("-v4")
        assert resolved.settings["training_steps"] == task.paper_frames == resolved.frames == 1_000_000
        assert task.random.value < task.published.value
        assert "Fujimoto" in task.protocol.published_by
    assert papers.resolve(paper, None, "pendulum", "paper").settings["training_steps"] == 50_000


def test_ablations_are_those_of_figure_2():
    paper = load_paper("ddpg")
    for variant, switches in (("no_target_network", (False, True)), ("no_batch_norm", (True, False))):
        for task in paper.variants[variant].tasks:
            s = papers.resolve(paper, variant, task, "paper").settings
            base = papers.resolve(paper, None, task, "paper").settings
            assert (s["target_network"], s["batch_norm"]) == switches
            assert {k for k in s if s[k] != base[k]} <= {"target_network", "batch_norm", "evaluation_steps"}


def test_ppo_does_not_count_the_replay_memory_as_its_code():
    assert "common.learning.replay" in modules_that_count("replications.ddpg.train")
    assert "replications.ddpg.plumbing" in modules_that_count("replications.ddpg.train")
    assert "common.learning.replay" not in modules_that_count("replications.ppo.train")


# --- bad input ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replay_capacity": 2}, "replay capacity of 2 is too small"),
        ({"batch_norm": "no"}, "not bool"),
        ({"batch_size": 1}, "batch_size: 1 is not allowed; 2 or more"),
    ],
)
def test_bad_settings_are_named(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train("ddpg", "pendulum", tmp_path, TINY | settings)


def test_an_unknown_task_and_a_game_are_named_on_the_command_line():
    for task in ("pendulums", "pong"):
        with pytest.raises(UserError, match=f"unknown task '{task}' of ddpg"):
            command_line.parse("ddpg", Config, ["--task", task])


def test_a_policy_from_finished_weights_has_no_noise():
    nets = make_network(PAPER, spaces(2, (5,), continuous=True))
    policy, states = make_policy(nets, PAPER), np.ones((3, 1, 5), np.float32)
    np.testing.assert_array_equal(policy(states, []), policy(states, []))
