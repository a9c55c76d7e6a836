"""Statistics over many tasks: by hand, against the statistics of equal numbers of runs, and their intervals."""

import numpy as np
import pytest

from common.evaluation import aggregates, statistics

RUNS = [np.array([0.0, 2.0]), np.array([1.0, 1.0, 4.0]), np.array([0.5])]


def test_by_hand_each_task_weighs_the_same_whatever_its_number_of_runs():
    table = aggregates.as_table(RUNS)
    assert table.shape == (6, 3)
    assert aggregates.mean(table) == pytest.approx((1 + 2 + 0.5) / 3)
    assert aggregates.median(table) == 1
    # short of 1 by 1 in half of the first task's runs, by 0.5 in the third
    assert aggregates.optimality_gap(table) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert aggregates.share_above(0.9)(table) == pytest.approx(2 / 3)
    # 18 values, 4 cut at each end: 0 0 0 .5 | .5 .5 .5 .5 .5 1 1 1 1 1 | 1... sorted: 3x0 6x.5 4x1 ... by count
    flat = sorted([0.0] * 3 + [2.0] * 3 + [1.0] * 4 + [4.0] * 2 + [0.5] * 6)
    assert aggregates.interquartile_mean(table) == pytest.approx(np.mean(flat[4:14]))


def test_with_as_many_runs_everywhere_they_are_the_known_statistics():
    table = np.random.default_rng(0).normal(1, 0.5, (5, 8))
    columns = list(table.T)
    assert aggregates.interquartile_mean(aggregates.as_table(columns)) == statistics.interquartile_mean(table)
    assert aggregates.median(aggregates.as_table(columns)) == statistics.median_over_games(table)


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
    drawn = aggregates.drawn_again([np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])], 50)
    assert drawn.shape == (50, 6, 2)
    assert set(np.unique(drawn[:, :, 0])) == {1, 2}
    assert set(np.unique(drawn[:, :, 1])) == {10, 20, 30}
    # the two tasks are drawn apart: the first's mean tells nothing of the second's
    assert abs(np.corrcoef(drawn.mean(1).T)[0, 1]) < 0.5


def test_a_performance_profile_falls_from_all_runs_to_none():
    assert aggregates.performance_profile(RUNS, [-1, 0.25, 1.5, 5]).tolist() == pytest.approx(
        [1, (0.5 + 1 + 1) / 3, (0.5 + 1 / 3) / 3, 0]
    )


@pytest.mark.parametrize("scores", [[], [np.array([])], [np.array([1.0, np.nan])]])
def test_nothing_and_what_is_no_number_is_refused(scores):
    with pytest.raises(ValueError, match="scores"):
        aggregates.as_table(scores)
