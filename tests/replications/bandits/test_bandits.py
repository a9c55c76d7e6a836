"""Bandits: updates and indices worked out by hand, the bound, and small runs that must show what is claimed."""

import numpy as np
import pytest

from common.errors import UserError
from replications.bandits import agents, testbed, thompson, ucb1

RNG = np.random.default_rng(5)


# --- the testbed ---


def test_optimistic_start_by_hand():
    agent = agents.ValueAgent((2, 3), initial=5.0, step_size=0.1)
    agent.learn(np.array([0, 2]), np.array([0.0, 5.0]))
    assert agent.values.tolist() == [[4.5, 5.0, 5.0], [5.0, 5.0, 5.0]]


def test_sample_average_counts_this_pull():
    agent = agents.ValueAgent((1, 2))
    for reward, mean in ((3.0, 3.0), (1.0, 2.0), (5.0, 3.0)):
        agent.learn(np.array([1]), np.array([reward]))
        assert agent.values[0, 1] == pytest.approx(mean)


def test_gradient_bandit_by_hand():
    agent = agents.GradientAgent((1, 10), step_size=0.1, baseline=False)
    agent.choose(1, RNG)
    agent.learn(np.array([3]), np.array([1.0]))
    assert agent.preferences[0, 3] == pytest.approx(0.09)
    assert np.delete(agent.preferences[0], 3) == pytest.approx(np.full(9, -0.01))
    with_baseline = agents.GradientAgent((1, 10), step_size=0.1)
    with_baseline.choose(1, RNG)
    with_baseline.learn(np.array([3]), np.array([1.0]))  # the mean of the rewards so far is this one
    assert (with_baseline.preferences == 0).all()
    with_baseline.choose(2, RNG)
    with_baseline.learn(np.array([3]), np.array([4.0]))  # the mean is 2.5 then
    assert with_baseline.preferences[0, 3] == pytest.approx(0.1 * 1.5 * 0.9)


def test_ties_are_broken_at_random_and_maxima_are_kept():
    values = np.tile([1.0, 2.0, 2.0, 0.0], (4000, 1))
    chosen = agents.largest(values, np.random.default_rng(1))
    assert set(chosen) == {1, 2}
    assert abs((chosen == 1).mean() - 0.5) < 0.04
    assert (agents.largest(np.eye(4), RNG) == np.arange(4)).all()


def test_exploring_is_uniform_over_all_arms_the_greedy_one_too():
    agent = agents.ValueAgent((40_000, 4), epsilon=0.4)
    agent.values[:, 2] = 1
    shares = np.bincount(agent.choose(1, np.random.default_rng(2)), minlength=4) / 40_000
    assert shares == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=0.01)


def test_ucb_tries_every_arm_once_and_then_the_one_with_the_largest_first_reward():
    """S&B Exercise 2.8; step 11: the expected reward is E[max q*] / sqrt(2) = 1.5388 / sqrt(2)."""
    problems = np.random.default_rng(3).standard_normal((4000, 10))
    agent = agents.ValueAgent(problems.shape, confidence=2.0)
    reward, _ = agents.play(problems, agent, 11, np.random.default_rng(4))
    assert (agent.counts.max(axis=1) == 2).all()
    assert (agent.counts.min(axis=1) == 1).all()
    assert np.abs(reward[:10]).max() < 4 * (2 / 4000) ** 0.5
    assert reward[10] == pytest.approx(1.5388 / 2**0.5, abs=4 * 0.02)


def test_ucb_by_hand():
    """S&B Equation 2.10 at t = 8, c = 2: 0.5 + 2 sqrt(ln 8 / 4) = 1.942 against 0.2 + 2 sqrt(ln 8 / 2) = 2.239, then 1.3 + 1.442."""
    agent = agents.ValueAgent((2, 2), confidence=2.0)
    agent.counts[:] = 4, 2
    agent.values[:] = [0.5, 0.2], [1.3, 0.2]
    assert agent.choose(8, RNG).tolist() == [1, 0]
    agent.values[:, 1] = 0.5 + 2 * (np.log(8) / 4) ** 0.5 - 2 * (np.log(8) / 2) ** 0.5
    agent.values[:, 0] = 0.501, 0.499
    assert agent.choose(8, RNG).tolist() == [0, 1]  # neither another t nor another c


def test_what_the_testbed_plays(monkeypatch):
    """Every agent of Figures 2.2 to 2.6 and Exercise 2.5, its settings, steps, and the arms that it plays."""
    seen = []

    def spy(problems, agent, steps, rng, drift):
        kept = vars(agent)
        names = ("epsilon", "step_size", "confidence", "baseline")
        seen.append(
            (
                steps,
                drift,
                round(problems.mean()),
                {n: kept[n] for n in names if kept.get(n)},
                agent.values.max() if "values" in kept else None,
            )
        )
        return np.zeros(steps), np.zeros(steps)

    monkeypatch.setattr(testbed, "play", spy)
    testbed.experiment(testbed.Config(runs=100), 1)
    one, ten = (1000, 0.0, 0), (10_000, 0.0, 0)
    by_epsilon = [(*one, {"epsilon": e} if e else {}, 0) for e in (0, 0.01, 0.1)]
    assert seen[:8] == [
        *by_epsilon, (*ten, {"epsilon": 0.01}, 0), (*ten, {"epsilon": 0.1}, 0), (*one, {"step_size": 0.1}, 5),
        (*one, {"epsilon": 0.1, "step_size": 0.1}, 0), (*one, {"confidence": 2.0}, 0),
    ]  # fmt: skip
    assert seen[8:12] == [
        (1000, 0.0, 4, {"step_size": a} | ({"baseline": True} if b else {}), None) for b in (True, False) for a in (0.1, 0.4)
    ]  # fmt: skip
    study = [(*one, {"epsilon": 2.0**p}, 0) for p in range(-7, -1)]
    study += [(*one, {"step_size": 2.0**p, "baseline": True}, None) for p in range(-5, 2)]
    study += [(*one, {"confidence": 2.0**p}, 0) for p in range(-4, 3)]
    study += [(*one, {"step_size": 0.1}, 2.0**p) for p in range(-2, 3)]
    assert seen[12:-2] == study
    assert seen[-2:] == [
        (10_000, 0.01, 0, {"epsilon": 0.1, "step_size": 0.1}, 0), (10_000, 0.01, 0, {"epsilon": 0.1}, 0),
    ]  # fmt: skip


def test_problems_are_the_same_for_all_agents_and_left_as_they_are():
    figures = testbed.Figures(testbed.Config(runs=30, steps=100), 1)
    before = figures.problems.copy()
    figures.play(agents.ValueAgent, 100, epsilon=0.1)
    figures.play(agents.ValueAgent, 100, drift=0.1, epsilon=0.1)
    assert (figures.problems == before).all()
    assert (testbed.Figures(testbed.Config(runs=30), 2).problems != before).all()


def test_where_arms_drift_the_best_one_changes():
    q = np.zeros((1, 2))

    class Spy:
        def choose(self, step, rng):
            return np.array([0])

        def learn(self, chosen, rewards):
            pass

    _, optimal = agents.play(q, Spy(), 400, np.random.default_rng(1), drift=1.0)
    assert 0 < (optimal == 100).mean() < 1


SMALL = testbed.Config(runs=60, steps=200, long_steps=200)


def test_testbed_at_a_small_size():
    first, again, other = (testbed.experiment(SMALL, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.measures != other.measures
    m = first.measures
    assert m["optimistic_spike"] > 0
    assert m["large_less_greedy_reward"] > 0
    assert m["gradient_gap_2"] > 0
    assert len(first.points) < 1500


@pytest.mark.parametrize(
    ("change", "message"),
    [({"arms": 1}, "2 arms"), ({"steps": 99}, "at least 100"), ({"large_epsilon": 1.5}, "probabilities")],
)
def test_bad_settings_of_the_testbed(change, message):
    with pytest.raises(UserError, match=message):
        testbed.experiment(testbed.Config(**change), 1)


def test_play_by_a_spy():
    """Rewards are N(q(chosen), 1), the best arm is that of the moment, and drift moves every arm by its own draw after the reward."""
    told = []

    class Spy:
        def choose(self, step, rng):
            told.append(step)
            return np.full(20_000, step % 2)

        def learn(self, chosen, rewards):
            told.append((rewards.mean(), rewards.std()))

    q = np.tile([3.0, -2.0, 1.0], (20_000, 1))
    reward, optimal = agents.play(q, Spy(), 2, np.random.default_rng(1))
    assert told[::2] == [1, 2]
    assert [mean for mean, _ in told[1::2]] == reward.tolist()
    assert reward == pytest.approx([-2, 3], abs=0.04)
    assert [deviation for _, deviation in told[1::2]] == pytest.approx([1, 1], abs=0.02)
    assert optimal.tolist() == [0, 100]
    told.clear()
    _, optimal = agents.play(np.zeros((20_000, 3)), Spy(), 3, np.random.default_rng(1), drift=2.0)
    assert optimal[1:] == pytest.approx([100 / 3] * 2, abs=1)
    assert [deviation for _, deviation in told[1::2]] == pytest.approx([1, 5**0.5, 3], abs=0.05)


# --- UCB1 ---


def test_index_and_bound_by_hand():
    assert ucb1.ucb1_values(np.array([0.5]), np.array([10.0]), 100)[0] == pytest.approx(1.4597, abs=1e-4)
    assert ucb1.bound((0.9, 0.6), 1e5) == pytest.approx(308.3, abs=0.05)
    assert ucb1.bound((0.9, *[0.8] * 9), 1e5) == pytest.approx(8293, abs=1)
    assert ucb1.divergence(0.4, 0.5) == pytest.approx(0.020136, abs=1e-6)


def test_tuned_index_by_hand():
    """x = .5, n_j = 10, n = 100: V = .25 + sqrt(2 ln 100 / 10) > 1/4, so the width is sqrt(ln 100 / 10 / 4)."""
    assert ucb1.tuned_values(np.array([0.5]), np.array([10.0]), 100)[0] == pytest.approx(
        0.5 + (4.60517 / 40) ** 0.5
    )
    means, counts = np.array([0.99]), np.array([10_000.0])
    v = 0.99 * 0.01 + (2 * np.log(2e4) / 1e4) ** 0.5
    assert ucb1.tuned_values(means, counts, 20_000)[0] == pytest.approx(0.99 + (np.log(2e4) / 1e4 * v) ** 0.5)


def test_exploration_falls_as_one_over_n():
    arms, gaps = np.array([10]), np.array([0.3])
    assert ucb1.exploration(1, arms, gaps, 0.1)[0] == 1
    assert ucb1.exploration(1000, arms, gaps, 0.1)[0] == pytest.approx(1 / 90)


@pytest.mark.parametrize("policy", ucb1.POLICIES)
def test_policies_find_the_best_arm_and_never_play_an_arm_that_is_not_there(policy):
    config = ucb1.Config(plays=3000, runs=4)
    regret, best = ucb1.play(policy, config, np.random.default_rng(1), np.array([10, 3000]))
    assert regret.shape == (2, 7)
    assert (np.diff(regret, axis=0) > 0).all()
    assert best[-1, 0] > 90  # distribution 1
    # each run's first K plays are of K arms: then the regret of distribution 11 is 9 x .3
    first, _ = ucb1.play("UCB1", config, np.random.default_rng(1), np.array([10]))
    assert first[0, 3] == pytest.approx(2.7)
    assert first[0, 0] < 3.0


@pytest.mark.parametrize("policy", ["UCB1", "UCB1-tuned"])
def test_counts_and_regret_by_a_spy(policy, monkeypatch):
    """Each index is told n and counts that sum to it; regret and best plays are what those counts say."""
    name = {"UCB1": "ucb1_values", "UCB1-tuned": "tuned_values"}[policy]
    real, seen = getattr(ucb1, name), []

    def spy(means, counts, n):
        seen.append((means.copy(), counts.copy(), n))
        return real(means, counts, n)

    monkeypatch.setattr(ucb1, name, spy)
    regret, best = ucb1.play(
        policy, ucb1.Config(plays=301, runs=2), np.random.default_rng(1), np.array([300, 301])
    )
    assert [n for *_, n in seen] == list(range(2, 301))
    means, counts, _ = seen[-1]
    for row, arms in enumerate(ucb1.DISTRIBUTIONS.values()):
        ours = counts[2 * row : 2 * row + 2, : len(arms)]
        assert (ours.sum(axis=1) == 300).all()
        assert regret[0, row] == pytest.approx((ours @ (arms[0] - np.array(arms))).mean())
        assert best[0, row] == pytest.approx(100 * ours[:, 0].mean() / 300)
        wins = means[2 * row : 2 * row + 2, : len(arms)] * ours
        assert wins == pytest.approx(np.rint(wins))
        assert wins.sum() / ours.sum() == pytest.approx(float(arms @ ours.sum(axis=0)) / ours.sum(), abs=0.1)


def test_ucb1_experiment_and_bad_settings():
    small = ucb1.Config(plays=400, runs=2)
    first, again = (ucb1.experiment(small, 1) for _ in range(2))
    assert first == again
    assert 0 < first.measures["largest_bound_share"] < 1
    for change in ({"plays": 10}, {"runs": 0}, {"epsilon_c": 0.0}):
        with pytest.raises(UserError, match="allowed are"):
            ucb1.experiment(ucb1.Config(**change), 1)


# --- Thompson sampling ---


def test_constant_of_lai_and_robbins():
    assert ucb1.lai_robbins((0.5, *[0.4] * 9)) == pytest.approx(44.70, abs=0.01)
    assert ucb1.lai_robbins((0.5, *[0.48] * 9)) == pytest.approx(224.9, abs=0.1)
    assert ucb1.lai_robbins((0.5, *[0.4] * 99)) == pytest.approx(491.7, abs=0.1)


def test_upper_confidence_bound_by_hand():
    """3 wins of 10 at t = 10,000: x = ln 100, .3 + sqrt(.6 x / 10) + .2 x."""
    x = np.log(100)
    found = thompson.ucb_values(np.array([3.0]), np.array([10.0]), 1e4)[0]
    assert found == pytest.approx(0.3 + (0.06 * x) ** 0.5 + 0.2 * x)


def test_choices_follow_the_posterior():
    """Beta(1, 1) against Beta(1, 3): the first draw is the larger one with probability 3/4."""
    wins, counts = np.zeros((1, 2)), np.array([[0.0, 2.0]])
    share = thompson.thompson_choices(wins, counts, 20_000, np.random.default_rng(1))
    assert share.sum() == 20_000
    assert share[0, 0] / 20_000 == pytest.approx(0.75, abs=0.02)
    # two wins of two: Beta(3, 1)
    share = thompson.thompson_choices(counts, counts, 20_000, np.random.default_rng(1))
    assert share[0, 1] / 20_000 == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("method", thompson.METHODS)
def test_posterior_and_counters_wait_for_the_end_of_the_period(method, monkeypatch):
    seen = []
    name = {"Thompson sampling": "thompson_choices", "UCB": "ucb_values", "UCB1": "ucb1_values"}[method]
    real = getattr(thompson, name)
    monkeypatch.setattr(thompson, name, lambda *a: (seen.append(np.sum(a[1])), real(*a))[1])
    config = thompson.Config(runs=1, update_period=50)
    regret = thompson.play(method, 3, 0.2, 500, config, np.random.default_rng(1), np.array([500]))
    assert len(seen) == 10
    if method == "Thompson sampling":
        assert seen == list(range(0, 500, 50))
    assert 0 < regret[0] < 0.2 * 500


@pytest.mark.parametrize("method", thompson.METHODS)
def test_regret_and_wins_follow_the_plays(method, monkeypatch):
    """With gap .5 other arms never win: wins are all the best arm's, and the regret counts the other plays."""
    seen = []
    name = {"Thompson sampling": "thompson_choices", "UCB": "ucb_values", "UCB1": "ucb1_values"}[method]
    real = getattr(thompson, name)
    monkeypatch.setattr(
        thompson, name, lambda *a: (seen.append([np.array(v, float) for v in a[:3]]), real(*a))[1]
    )
    config = thompson.Config(runs=2, best=0.5)
    regret = thompson.play(method, 3, 0.5, 2100, config, np.random.default_rng(1), np.array([2000, 2100]))
    wins, counts, t = seen[-1]
    if method == "UCB1":
        wins = wins * counts
    assert (wins[:, 1:] == 0).all()
    assert wins[:, 0] == pytest.approx(counts[:, 0] / 2, abs=100)
    assert counts.sum(axis=1).tolist() == [2000, 2000]
    assert regret[0] == pytest.approx(0.5 * counts[:, 1:].sum(axis=1).mean())
    if method != "Thompson sampling":
        assert t == 2000


def test_slope_and_marks():
    marks = thompson.marks_of(100_000, 100)
    assert marks[-1] == 100_000
    assert 10_000 in marks
    assert (marks % 100 == 0).all()
    assert thompson.slope(marks, 7 + 40 * np.log(marks)) == pytest.approx(40)


def test_thompson_experiment_and_bad_settings():
    small = thompson.Config(plays=10_000, many_plays=10_000, runs=2)
    first, again = (thompson.experiment(small, 1) for _ in range(2))
    assert first == again
    assert first.measures["thompson_over_ucb_few_wide"] < 1
    for change in ({"plays": 10_001}, {"many_plays": 100}, {"wide_gap": 0.5}, {"runs": 0}):
        with pytest.raises(UserError, match="allowed are"):
            thompson.experiment(thompson.Config(**change), 1)
