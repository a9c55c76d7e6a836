"""REINFORCE: eligibilities by hand and by autograd, the corridor's exact values, the loop, exact resume."""

import csv
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from common.evaluation.protocol import evaluate_run
from common.papers import resolve
from replications.reinforce import bandit, short_corridor
from replications.reinforce import train as r
from tests.training import spaces, train, train_in_two

TINY = {"training_steps": 300, "log_period": 100}

# --- Theorem 1 ---


def test_changes_by_hand():
    y = np.array([1.0])
    assert bandit.delta(1.0, 0.0, bandit.bernoulli_eligibility(y, 0.0), 0.1) == pytest.approx([0.05])
    y = np.array([2.0])  # mu 0, sigma 1, r - b = 1, alpha' .1 times sigma^2
    assert bandit.delta(1.0, 0.0, bandit.mean_eligibility(y, 0.0, 1.0), 0.1) == pytest.approx([0.2])
    assert bandit.delta(1.0, 0.0, bandit.spread_eligibility(y, 0.0, 1.0), 0.1) == pytest.approx([0.3])


def test_eligibilities_are_gradients_of_the_log_density():
    y = torch.tensor([0.0, 1.0], dtype=torch.float64)
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    p = torch.sigmoid(w * 2.0)
    for i in range(2):
        (expected,) = torch.autograd.grad(
            torch.distributions.Bernoulli(p).log_prob(y[i]), w, retain_graph=True
        )
        assert bandit.bernoulli_eligibility(y.numpy(), 0.7, 2.0)[i] == pytest.approx(float(expected))
    p = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(torch.distributions.Bernoulli(p).log_prob(y[1]), p)
    assert bandit.probability_eligibility(y.numpy(), 0.3)[1] == pytest.approx(float(expected))
    mu, sigma = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.8))
    log = torch.distributions.Normal(mu, sigma).log_prob(torch.tensor(1.5, dtype=torch.float64))
    d_mu, d_sigma = torch.autograd.grad(log, (mu, sigma))
    at = np.array([1.5]), 0.3, 0.8
    assert bandit.mean_eligibility(*at)[0] == pytest.approx(float(d_mu))
    assert bandit.spread_eligibility(*at)[0] == pytest.approx(float(d_sigma))
    z = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(z.log_softmax(0)[2], z)
    assert bandit.softmax_eligibility(np.array([2]), z.detach().numpy())[0] == pytest.approx(expected.numpy())


def test_two_arms_by_hand():
    """Logits (0, 0), rewards 1 and 0: E[dz_1] = .25 alpha for every constant baseline."""
    arms, rewards = np.array([0, 1]), np.array([1.0, 0.0])
    for b in (0.0, 0.5, -3.0):
        change = bandit.delta(rewards, b, bandit.softmax_eligibility(arms, np.zeros(2))[:, 0], 0.1)
        assert change.mean() == pytest.approx(0.025)


def test_the_running_mean_knows_nothing_of_this_trial():
    rewards = np.array([4.0, 2.0, 8.0])
    assert bandit.running_mean(rewards, 0.5) == pytest.approx([0, 2, 2])
    assert bandit.running_mean(rewards, 0.5, peeks=True) == pytest.approx([2, 2, 5])


@pytest.mark.parametrize(
    "change", [{"draws": 10}, {"decay": 0.0}, {"decay": 1.0}, {"spread": 0.0}, {"probability": 1.0}]
)
def test_a_bandit_that_cannot_be_measured(change):
    with pytest.raises(UserError, match=f"{next(iter(change))}: .* is not allowed"):
        resolve("reinforce", None, "bandit", "paper", change)


def test_bandit_at_a_small_size():
    small = bandit.Config(draws=20_000)
    first, again = (bandit.experiment(small, 1) for _ in range(2))
    assert first == again
    m = first.measures
    assert max(m[f"{name}_largest"] for name in bandit.units(small, np.random.default_rng(1))) < 4
    assert m["looking_least"] > 10
    assert m["reward_inaction_off"] < 1e-15
    assert m["peeking_over_decay"] == pytest.approx(1, abs=0.05)


# --- the corridor ---


def test_exact_values_of_the_corridor():
    assert short_corridor.value(short_corridor.BEST) == pytest.approx(-(6 + 4 * 2**0.5))
    assert [short_corridor.value(p) for p in (0.05, 0.5, 0.95)] == pytest.approx(
        [-82.1, -12, -44.2], abs=0.03
    )


@pytest.mark.parametrize("right", [0.3, 0.5, 0.8])
def test_episodes_are_as_long_as_they_should_be(right):
    n = 20_000
    actions, length = short_corridor.play(np.full(n, right), 2000, np.random.default_rng(1))
    assert -length.mean() == pytest.approx(short_corridor.value(right), abs=5 * length.std() / n**0.5)
    assert ((actions >= 0).sum(axis=0) == length).all()


def test_actions_are_switched_in_the_second_state():
    """Always right never ends: it goes to and fro between the first two states. Right, left, right is the shortest way."""
    _, length = short_corridor.play(np.array([1.0]), 50, np.random.default_rng(1))
    assert length[0] == 50

    class Fixed:
        draws = iter([0.0, 1.0, 0.0])

        def random(self, n):
            return np.full(n, next(self.draws))

    actions, length = short_corridor.play(np.array([0.5]), 50, Fixed())
    assert (actions[:, 0].tolist(), length[0]) == ([1, 0, 1], 3)


def test_learning_by_hand(monkeypatch):
    """Three steps, right left left, from p = 1/2: eligibilities of theta_right are 1/2, -1/2, -1/2, returns -3, -2, -1."""
    config = short_corridor.Config(episodes=1, runs=1, first_right=0.5)
    episode = np.array([[1], [0], [0]]), np.array([3])
    monkeypatch.setattr(short_corridor, "play", lambda *_: episode)

    def theta(**options):
        returns, right = short_corridor.learn(0.1, config, np.random.default_rng(1), **options)
        assert returns.tolist() == [[-3]]
        return float(np.log(right[0] / (1 - right[0]))) / 2

    assert theta() == pytest.approx(0.1 * (-3 * 0.5 + -2 * -0.5 + -1 * -0.5))
    at, w = 0.0, 0.0
    for g, action in ((-3, 1), (-2, 0), (-1, 0)):
        delta = g - w  # before w learns of this return
        at += 0.1 * delta * (action - 1 / (1 + np.exp(-2 * at)))
        w += 0.5 * delta
    assert theta(step_by_step=True, value_step_size=0.5) == pytest.approx(at)


def test_what_the_corridor_plays(monkeypatch):
    """Figure 13.1 with one policy an episode and no floor; Figure 13.2 in the book's box, both with the floor."""
    seen = []
    real = short_corridor.learn

    def spy(alpha, config, rng, **options):
        seen.append((np.log2(alpha), options))
        return real(alpha, config, rng, **options)

    monkeypatch.setattr(short_corridor, "learn", spy)
    short_corridor.experiment(short_corridor.Config(episodes=200, runs=2, most_steps=20), 1)
    box = {"floor": 0.05, "step_by_step": True}
    assert seen == [
        (-12, {}), (-13, {}), (-14, {}), (-13, box), (-9, box | {"value_step_size": 2**-6}), (-9, {"step_by_step": True}),
    ]  # fmt: skip


def test_both_ways_of_updating_agree_for_small_steps():
    config = short_corridor.Config(episodes=30, runs=20)
    found = [
        short_corridor.learn(1e-7, config, np.random.default_rng(2), step_by_step=s)[1] for s in (False, True)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert (found[0] != found[1]).any()


def test_corridor_at_a_small_size():
    small = short_corridor.Config(episodes=200, runs=3, most_steps=40)
    first, again = (short_corridor.experiment(small, 1) for _ in range(2))
    assert first == again
    assert first.measures["baseline_right"] > 0.05
    for change in ({"episodes": 10}, {"first_right": 1.0}, {"floor": 0.5}, {"most_steps": 1}):
        with pytest.raises(UserError, match="allowed are"):
            short_corridor.experiment(short_corridor.Config(**change), 1)


# --- the trained agent ---


def test_weights_of_actions():
    rewards, paper = np.array([1.0, 2.0, 4.0]), r.Config()
    assert r.weights_of_actions(rewards, 3.0, paper).tolist() == [4, 4, 4]
    later = replace(paper, reward_to_go=True, discount=0.5)
    assert r.weights_of_actions(rewards, 0.0, later).tolist() == [3, 4, 4]
    normal = r.weights_of_actions(rewards, 0.0, replace(later, normalise=True))
    assert (normal.mean(), normal.std()) == (pytest.approx(0), pytest.approx(1))
    same = r.weights_of_actions(np.array([5.0]), 0.0, replace(later, normalise=True))
    assert same.tolist() == [0]  # no division by zero


def test_the_sum_over_an_episode_and_its_sign():
    heads = r.Heads(torch.zeros(2, 2, requires_grad=True), torch.zeros(2))
    value = r.weighted_log_probability(heads, torch.tensor([0, 1]), torch.tensor([3.0, 1.0]))
    assert value.item() == pytest.approx(4 * np.log(0.5))
    value.backward()
    assert heads.outputs.grad.tolist() == [[1.5, -1.5], [-0.5, 0.5]]


def test_variances_by_hand():
    v = r.Variances(2)
    for eligibility, score in ((torch.tensor([1.0, 0.0]), 3.0), (torch.tensor([0.0, 2.0]), 1.0)):
        v.add(eligibility, score, 1.0)
    # with b = 1: (2, 0), (0, 0); without: (3, 0), (0, 2)
    assert v.take() == pytest.approx([1.0, 9 / 2 + 4 / 2 - 1.5**2 - 1])
    assert v.take() == [0, 0]


def test_network_and_sampling():
    net = r.make_network(r.Config(hidden_units=5), spaces(3, (4,)))
    heads = net(torch.zeros(2, 1, 4))
    assert heads.outputs.shape == (2, 3)
    logits = torch.tensor([[0.0, np.log(3.0)]])
    rng = np.random.default_rng(1)
    share = np.mean([r.sample(logits, rng) for _ in range(4000)])
    assert share == pytest.approx(0.75, abs=0.03)


def test_the_loop_takes_the_papers_step(tmp_path, monkeypatch):
    """One update an episode: w + alpha (r - b) sum e, b the mean of earlier returns, checked on the whole run by a spy."""
    seen = []
    real = r.weighted_log_probability

    def spy(heads, actions, weights):
        seen.append((float(heads.values[0]), len(actions), weights.tolist()))
        return real(heads, actions, weights)

    monkeypatch.setattr(r, "weighted_log_probability", spy)
    folder = train("reinforce", "cartpole", tmp_path, TINY)
    scores = [float(row["score"]) for row in csv.DictReader((folder / "episodes.csv").open())]
    assert [steps for _, steps, _ in seen] == scores
    assert all(weights == [1.0] * steps for _, steps, weights in seen)
    baseline = 0.0
    for (b, *_), score in zip(seen, scores, strict=True):
        assert b == pytest.approx(baseline, rel=1e-5)
        baseline = 0.9 * baseline + 0.1 * score
    assert float(load_file(folder / "model.safetensors")["baseline"]) == pytest.approx(baseline, rel=1e-5)


@pytest.mark.parametrize(
    ("variant", "change"),
    [(None, {}), ("no_baseline", {}), ("reward_to_go", {}), ("reward_to_go", {"baseline": True, "normalise": False})],
)  # fmt: skip
def test_the_weights_are_those_of_the_rule_written_again(variant, change, tmp_path, monkeypatch):
    """From what the environment was asked and answered alone: the network after every episode, the baseline, both variances."""
    made, seen, states = [], [], []
    make_network, make_envs, sample = r.make_network, r.make_envs, r.sample

    def network(*args):
        net = make_network(*args)
        made.append(deepcopy(net.layers).double())
        return net

    def environments(*args):
        envs = make_envs(*args)
        step, reset = envs.step, envs.reset_where
        envs.step = lambda actions: (seen.append((int(actions[0]), step(actions))), seen[-1][1])[1]
        envs.reset_where = lambda mask: (states.append(reset(mask)[0].copy()), states[-1][None])[1]
        return envs

    monkeypatch.setattr(r, "make_network", network)
    monkeypatch.setattr(r, "make_envs", environments)
    shown = []
    monkeypatch.setattr(r, "sample", lambda z, rng: (shown.append(z.numpy().copy()), sample(z, rng))[1])
    big = {"learning_rate": 0.001} if variant != "reward_to_go" else {}  # the steps are to be seen
    folder = train(
        "reinforce", "cartpole", tmp_path, TINY | {"log_period": 300} | big | change, variant=variant
    )
    net, rate = made[0], 0.01 if variant == "reward_to_go" else 0.001
    adam = torch.optim.Adam(net.parameters(), lr=rate)
    baseline, parts, state, starts = 0.0, [], states[0], states[1:]
    episode = []
    for (action, step), logits in zip(seen, shown, strict=True):
        policy = torch.distributions.Categorical(logits=net(torch.tensor(state[None, None]).double())[0])
        assert logits[0] - logits.mean() == pytest.approx(
            (policy.logits - policy.logits.mean()).detach().numpy(), abs=1e-5
        )
        episode.append((policy.log_prob(torch.tensor(action)), float(step.rewards[0])))
        state = step.obs[0]
        if not step.done[0]:
            continue
        rewards = [reward for _, reward in episode]
        score, state = sum(rewards), starts.pop(0)
        if variant == "reward_to_go":
            factors = [
                sum(0.99 ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))
            ]
            if change:
                factors = np.array(factors) - baseline
            else:
                factors = (np.array(factors) - np.mean(factors)) / (np.std(factors) + 1e-8)
        else:
            factors = np.full(len(rewards), score - (baseline if variant is None else 0))
        adam.zero_grad()
        (-sum(f * log for f, (log, _) in zip(factors, episode, strict=True))).backward(retain_graph=True)
        flat = torch.cat([p.grad.flatten() for p in net.parameters()]).numpy().copy()
        if variant != "reward_to_go":
            with torch.no_grad():
                for p in net.parameters():
                    p -= rate * p.grad
            parts.append((flat / factors[0], score, baseline))
        else:
            adam.step()
        baseline = 0.9 * baseline + 0.1 * score
        episode = []
    kept = load_file(folder / "model.safetensors")
    assert float(kept["baseline"]) == pytest.approx(baseline, rel=1e-5)
    for name, value in net.state_dict().items():
        assert kept[f"layers.{name}"].numpy() == pytest.approx(value.numpy(), abs=2e-5)
    if variant != "reward_to_go":
        row = next(csv.DictReader((folder / "curve.csv").open()))
        for column, of in (("variance_with_baseline", 1), ("variance_without_baseline", 0)):
            rows = np.array([(score - of * b) * e for e, score, b in parts])
            assert float(row[column]) == pytest.approx(rows.var(axis=0).sum(), rel=1e-3)


@pytest.mark.parametrize("variant", [None, "reward_to_go", "no_baseline"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(variant, tmp_path):
    whole = train("reinforce", "cartpole", tmp_path / "whole", TINY, variant=variant)
    resumed = train_in_two(170, "reinforce", "cartpole", tmp_path / "resumed", TINY, variant=variant)
    for name in ("model.safetensors", "curve.csv", "episodes.csv"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_acrobot_runs_and_is_filmed(tmp_path):
    folder = train("reinforce", "acrobot", tmp_path, {"training_steps": 600, "log_period": 300})
    score = evaluate_run(folder, "cpu")["score"]
    assert -500 <= score < 0
    assert (folder / "episode.mp4").exists()


def test_the_variant_learns_within_a_few_thousand_steps(tmp_path):
    folder = train(
        "reinforce", "cartpole", tmp_path, {"training_steps": 6000}, variant="reward_to_go", budget="paper"
    )
    scores = [float(row["score"]) for row in csv.DictReader((folder / "episodes.csv").open())]
    assert np.mean(scores[-10:]) > 2 * np.mean(scores[:20])


@pytest.mark.parametrize("change", [{"learning_rate": 0.0}, {"baseline_decay": 1.0}, {"discount": 1.5}])
def test_bad_settings(change, tmp_path):
    with pytest.raises(UserError, match="is not allowed"):
        train("reinforce", "cartpole", tmp_path, TINY | change)
