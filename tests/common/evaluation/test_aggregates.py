"""Statistics over many tasks: by hand, against frozen figures, and their intervals."""

import numpy as np
import pytest

from common.evaluation import aggregates

RUNS = [np.array([0.0, 2.0]), np.array([1.0, 1.0, 4.0]), np.array([0.5])]


def frozen_scores(runs, games, seed):
    """Of each game its runs."""
    return list(np.random.default_rng(seed).gamma(2, 0.5, (runs, games)).T)


def test_by_hand_each_task_weighs_the_same_whatever_its_number_of_runs():
    assert aggregates.mean(RUNS) == pytest.approx((1 + 2 + 0.5) / 3)
    assert aggregates.median(RUNS) == 1
    # short of 1 by 1 in half of the first task's runs, by 0.5 in the third
    assert aggregates.optimality_gap(RUNS) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert aggregates.share_above(0.9)(RUNS) == pytest.approx(2 / 3)
    # each task repeated to six runs: 18 values, 4 cut at each end
    flat = sorted([0.0] * 3 + [2.0] * 3 + [1.0] * 4 + [4.0] * 2 + [0.5] * 6)
    assert aggregates.interquartile_mean(RUNS) == pytest.approx(np.mean(flat[4:14]))


def test_the_interquartile_mean_is_that_of_tasks_whose_runs_were_repeated():
    rng = np.random.default_rng(4)
    for counts in ((3, 3, 3), (1, 2, 3, 4), (5, 7, 5, 5, 1), (2,)):
        scores = [rng.normal(1, 1, n) for n in counts]
        rows = np.lcm.reduce(counts)
        flat = np.sort(np.concatenate([np.repeat(runs, rows // len(runs)) for runs in scores]))
        cut = len(flat) // 4
        assert aggregates.interquartile_mean(scores) == pytest.approx(flat[cut : len(flat) - cut].mean())


@pytest.mark.parametrize(
    ("shape", "seed", "iqm", "interval"),
    # rliable 1.2.0 (arch 7.2.0, 20,000 repetitions) on the same arrays
    [
        ((5, 20), 1, 0.83916406, (0.74321055, 0.93427772)),
        ((3, 49), 2, 0.8360289, (0.73894046, 0.93773636)),
    ],
)
def test_interquartile_mean_is_rliables(shape, seed, iqm, interval):
    scores = frozen_scores(*shape, seed)
    value, ends = aggregates.with_interval(scores, aggregates.interquartile_mean, repetitions=5000)
    assert value == pytest.approx(iqm, abs=1e-7)
    assert ends == pytest.approx(interval, abs=0.008)  # Monte Carlo noise


def test_its_interval_is_frozen_and_stratified():
    _, ends = aggregates.with_interval(frozen_scores(5, 20, 1), aggregates.interquartile_mean)
    assert ends == pytest.approx((0.7471555663815532, 0.9316349913606209), abs=1e-12)
    # equal runs within each game: resampling within games moves nothing, however different the games are
    equal = [np.full(4, float(game)) for game in range(8)]
    assert aggregates.with_interval(equal, aggregates.interquartile_mean) == (3.5, (3.5, 3.5))
    singles = [np.array([score]) for score in (1.0, 2.0, 3.0, 100.0)]
    assert aggregates.interquartile_mean(singles) == 2.5


def test_the_median_and_its_interval():
    scores = [np.array([0.0, 2.0]), np.array([10.0, 30.0]), np.array([5.0, 5.0])]  # means 1, 20, 5
    assert aggregates.with_interval(scores, aggregates.median) == (
        5.0,
        (5.0, 5.0),
    )  # the median game never varies
    # means 1, 20 and 13: not the median of the six runs, which is 8
    assert aggregates.median([np.array(runs) for runs in ((0.0, 2.0), (10.0, 30.0), (6.0, 20.0))]) == 13.0
    # one game: drawn runs are (0, 0) to (2, 2)
    assert aggregates.with_interval(scores[:1], aggregates.median) == (1.0, (0.0, 2.0))
    many = list(np.random.default_rng(3).normal(1.0, 0.5, (5, 11)).T)
    value, (low, high) = aggregates.with_interval(many, aggregates.median)
    assert low < value < high
    assert 0.05 < high - low < 1.0
    assert aggregates.with_interval(many, aggregates.median) == (value, (low, high))


def test_one_task_with_fewer_runs_takes_no_interval_from_the_others():
    scores = frozen_scores(5, 20, 1)
    whole = aggregates.with_interval(scores, aggregates.interquartile_mean)[1]
    fewer = aggregates.with_interval([scores[0][:1], *scores[1:]], aggregates.interquartile_mean)[1]
    assert 0.5 < (fewer[1] - fewer[0]) / (whole[1] - whole[0]) < 1.5


def test_many_different_numbers_of_runs_take_no_more_memory():
    """Repeated to equal numbers, these would be 360360 runs of each task, 2000 times over."""
    scores = [np.linspace(0, 1, n) for n in range(1, 16)]
    value, (low, high) = aggregates.with_interval(scores, aggregates.interquartile_mean)
    assert low < value < high


def test_an_interval_covers_what_its_runs_are_drawn_from():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(60):
        scores = [rng.normal(1, 0.3, n) for n in (10, 8, 12, 10)]
        _, (low, high) = aggregates.with_interval(scores, aggregates.mean)
        hits += low <= 1 <= high
    assert 50 <= hits <= 60  # 95 %, a little less with few runs


def test_one_run_a_task_has_no_interval_and_one_task_with_several_has():
    assert aggregates.with_interval([np.array([1.0]), np.array([2.0])], aggregates.mean) == (1.5, None)
    value, (low, high) = aggregates.with_interval([np.array([1.0]), np.array([2.0, 4.0])], aggregates.mean)
    assert (value, low, high) == (2.0, 1.5, 2.5)


def test_runs_are_drawn_within_their_task():
    first, second = aggregates.drawn_again([np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])], 50)
    assert (first.shape, second.shape) == ((50, 2), (50, 3))
    assert set(np.unique(first)) == {1, 2}
    assert set(np.unique(second)) == {10, 20, 30}
    # the two tasks are drawn apart: the first's mean tells nothing of the second's
    assert abs(np.corrcoef(first.mean(1), second.mean(1))[0, 1]) < 0.5


def test_a_performance_profile_falls_from_all_runs_to_none():
    found = aggregates.performance_profile(RUNS, [-1, 0.25, 1.5, 5])
    assert found[:, 0].tolist() == pytest.approx([1, (0.5 + 1 + 1) / 3, (0.5 + 1 / 3) / 3, 0])


def test_a_performance_profile_has_the_interval_of_the_bootstrap_at_each_level():
    # of 16 runs of each task half are above 0.5: a binomial share, whose ends are known
    coin = np.array([0.0] * 8 + [1.0] * 8)
    (everywhere, half), (nowhere,) = np.split(aggregates.performance_profile([coin, coin], [-1, 0.5, 2]), [2])
    assert everywhere.tolist() == [1, 1, 1]
    assert nowhere.tolist() == [0, 0, 0]
    spread = 1.96 * 0.5 / np.sqrt(32)
    assert half.tolist() == pytest.approx([0.5, 0.5 - spread, 0.5 + spread], abs=0.03)
    single = aggregates.performance_profile([np.array([0.2]), np.array([0.8])], [0.5])
    assert single.tolist() == [[0.5, 0.5, 0.5]]  # one run a task: nothing is known of the spread


@pytest.mark.parametrize("scores", [[], [np.array([])], [np.array([1.0, np.nan])]])
def test_nothing_and_what_is_no_number_is_refused(scores):
    with pytest.raises(ValueError, match="scores"):
        aggregates.checked(scores)
