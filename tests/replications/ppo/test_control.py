"""The MuJoCo tasks, the rows of Table 1, the control network and its running moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common import papers
from common.environments.vector import GymEnvs
from common.evaluation.verdict import decide
from replications.ppo.control import ControlNetwork, in_numpy, initialise, observation_moments

TASKS = {
    "half_cheetah": "HalfCheetah", "hopper": "Hopper", "inverted_double_pendulum": "InvertedDoublePendulum",
    "inverted_pendulum": "InvertedPendulum", "reacher": "Reacher", "swimmer": "Swimmer", "walker2d": "Walker2d",
}  # fmt: skip
PPO2 = {"half_cheetah": 2149, "hopper": 2448, "walker2d": 3142}
CLEANRL = {"half_cheetah": 1442.6, "hopper": 2382.9, "inverted_pendulum": 963, "walker2d": 2287.9}


TABLE_1 = {
    "no_clip": {"objective": "none"}, "clip_01": {"clip": 0.1}, "clip_03": {"clip": 0.3},
    "adaptive_kl_0003": {"objective": "adaptive_kl", "kl_target": 0.003}, "adaptive_kl_001": {"objective": "adaptive_kl"},
    "adaptive_kl_003": {"objective": "adaptive_kl", "kl_target": 0.03},
    "fixed_kl_03": {"objective": "fixed_kl", "kl_coefficient": 0.3}, "fixed_kl_1": {"objective": "fixed_kl"},
    "fixed_kl_3": {"objective": "fixed_kl", "kl_coefficient": 3.0}, "fixed_kl_10": {"objective": "fixed_kl", "kl_coefficient": 10.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def paper():
    return papers.load_paper("ppo")


def test_seven_tasks_of_a_million_steps_and_no_verdict(paper):
    for variant in ("", *TABLE_1):
        tasks = {t.name: t for t in paper.variants[variant].tasks.values() if t.kind == "gym" and t.in_paper}
        assert {name: task.env_id for name, task in tasks.items()} == {
            n: f"{env}-v4" for n, env in TASKS.items()
        }
        for name, task in tasks.items():
            resolved = papers.resolve(paper, variant or None, name, "paper")
            assert resolved.settings["training_steps"] == task.paper_frames == resolved.frames == 1_000_000
            assert (task.published, task.bar) == (None, None)
            verdict = decide(
                [3000.0] * 3, published=None, random=None, published_reason=task.published_reason
            )
            assert verdict.key == "no_published"
            assert task.published_reason in verdict.sentence


def test_figures_that_stand_there_as_context_are_those_of_the_table(paper):
    for name in TASKS:
        said = paper.tasks[name].published_reason
        for metric, words, known in (
            ("ppo2_rerun", "the released code (ppo2)", PPO2),
            ("cleanrl", "CleanRL", CLEANRL),
        ):
            if name in known:
                row = papers.find_row(paper.folder / "published.csv", name, metric)
                assert row.value == known[name]
                assert f"{words} {row.value:g} on " in said
            else:
                assert f"{words} " not in said
        assert ("For context, not to compare" in said) == (name in CLEANRL)
        if name not in PPO2:
            assert "of the released code there is no figure" in said


def test_a_smoke_size_is_not_called_the_papers(paper):
    for variant in (None, *TABLE_1):
        found = {d.field: d.reason for d in papers.resolve(paper, variant, "hopper", "smoke").deviations}
        for name in ("training_steps", "rollout_steps", "epochs"):
            assert found[name] == "smoke size: teaches the agent nothing"


def test_mujoco_is_compared_with_its_own_table(paper):
    """The paper's Table 3 and Section 6.1 are no deviations from it, nor is its length."""
    resolved = papers.resolve(paper, None, "hopper", "paper")
    assert [d.what for d in resolved.deviations if d.origin != "listed"] == []
    assert resolved.paper_fraction == 1
    constants = {c.field: (c.paper, c.source) for c in paper.constants_by_kind["gym"]}
    assert constants["rollout_steps"] == (2048, "Table 3")
    assert constants["training_steps"] == (1_000_000, "Section 6.1")
    assert "life_loss_terminal" not in constants
    assert {c.field: c.source for c in paper.constants_by_kind["atari"]}["rollout_steps"] == "Table 5"


def test_each_row_of_table_1_differs_from_the_base_in_its_objective_alone(paper):
    """And has a printed value under its own name."""
    base = papers.resolve(paper, None, "hopper", "paper").settings
    wanted = {
        "network": "mlp",
        "clip": 0.2,
        "objective": "clip",
        "kl_target": 0.01,
        "kl_coefficient": 1.0,
        "num_envs": 1,
    }
    wanted |= {"rollout_steps": 2048, "epochs": 10, "minibatch_size": 64, "learning_rate": 3e-4, "stack": 1}
    wanted |= {
        "observation_filter": "iteration",
        "observation_clip": 5.0,
        "normalise_rewards": False,
        "reward_clip": 0.0,
    }
    wanted |= {
        "clip_actions": False,
        "anneal_clip": False,
        "anneal_learning_rate": False,
        "entropy_coefficient": 0.0,
    }
    assert {name: base[name] for name in wanted} == wanted
    for name, changes in TABLE_1.items():
        assert papers.resolve(paper, name, "hopper", "paper").settings == base | changes
    for name in ("clip_02", *TABLE_1):
        assert papers.find_row(paper.folder / "published.csv", "mujoco_7", name).value < 1


# --- network and moments ---


def test_policy_and_value_are_apart_and_numpy_says_what_the_network_says():
    torch.manual_seed(0)
    net = ControlNetwork(3, 11, continuous=True, observation_clip=5.0)
    initialise(net, "normc")
    states = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    heads = net(torch.from_numpy(states))
    np.testing.assert_allclose(in_numpy(net)(states), heads.outputs.detach().numpy(), atol=1e-6)
    x = [torch.from_numpy(states).double()] * 2
    for layer in net.hidden:
        x = [torch.tanh(x[i] @ layer.weight[i].double() + layer.bias[i].double()) for i in (0, 1)]
    torch.testing.assert_close(
        heads.outputs.double(), x[0] @ net.policy.weight.double().T, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        heads.values.double(), (x[1] @ net.value.weight.double().T)[:, 0], atol=1e-6, rtol=1e-5
    )
    heads.outputs.sum().backward()
    assert all(layer.weight.grad[0].any() and not layer.weight.grad[1].any() for layer in net.hidden)


@pytest.mark.parametrize(("kind", "square"), [("normc", 1.0), ("orthogonal", 2.0)])
def test_initial_weights(kind, square):
    torch.manual_seed(0)
    net = ControlNetwork(3, 11, continuous=True)
    initialise(net, kind)
    for layer in net.hidden[1:]:
        for weight in layer.weight.detach():
            products = weight.T @ weight  # of units
            torch.testing.assert_close(products.diagonal(), torch.full((64,), square), atol=1e-5, rtol=1e-5)
            off = products - products.diagonal().diag()
            assert (off.abs().max() < 1e-5) == (kind == "orthogonal")
    torch.testing.assert_close(net.policy.weight.norm(dim=1), torch.full((3,), 0.01))
    torch.testing.assert_close(net.value.weight.norm(dim=1), torch.ones(1))
    assert net.log_std.tolist() == [0, 0, 0]
    assert not any(layer.bias.any() for layer in (*net.hidden, net.policy, net.value))


@pytest.mark.parametrize(("kind", "prior"), [("iteration", 0.01), ("step", 1e-4)])
def test_moments_equal_those_of_all_that_was_seen_and_of_the_prior(kind, prior):
    rng = np.random.default_rng(0)
    batches = [rng.normal(50, 3, size=(n, 4)) for n in (1, 7, 2, 100)]
    moments = observation_moments(kind, 4)
    assert moments.mean.tolist() == [0] * 4
    assert moments.std.tolist() == [1] * 4
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches)
    count = len(everything) + prior
    mean = everything.sum(0) / count
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
    variance = ((everything**2).sum(0) + prior) / count - mean**2
    np.testing.assert_allclose(moments.std, np.sqrt(variance), rtol=1e-9)
    other = observation_moments(kind, 4)
    other.load_state_dict(moments.state_dict())
    for m in (moments, other):
        m.update(batches[1])
    assert np.array_equal(moments.mean, other.mean)
    assert np.array_equal(moments.std, other.std)


def test_what_hardly_changes_is_not_blown_up_and_far_values_are_bounded():
    moments, net = observation_moments("iteration", 1), ControlNetwork(2, 1, True, observation_clip=5.0)
    moments.update(np.full((100_000, 1), 3.0))
    moments.store(net)
    assert net.std.item() == pytest.approx(0.1)  # the root of the variance's floor
    assert net.normalised(np.array([[[3.2]], [[9.0]], [[-9.0]]], np.float32))[:, 0] == pytest.approx(
        [2.0, 5.0, -5.0], abs=1e-3
    )


def test_actions_beyond_the_bounds_cost_what_they_are_unless_they_are_clipped():
    """HalfCheetah's control cost is a tenth of the squared action."""
    rewards = []
    for clip in (False, True):
        envs = GymEnvs("HalfCheetah-v4", 1, 0, clip_actions=clip)
        envs.reset(np.array([1]))
        rewards.append(envs.step(np.full((1, 6), 3.0, np.float32)).rewards[0])
    assert rewards[1] - rewards[0] == pytest.approx(0.1 * 6 * (9 - 1), rel=1e-5)
