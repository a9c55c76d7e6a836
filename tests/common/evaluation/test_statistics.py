"""Intervals against hand-computed and frozen numbers, and their coverage by simulation."""

import math

import numpy as np
import pytest

from common.evaluation.statistics import (
    Estimate,
    decimals_for,
    estimate_in_words,
    format_number,
    format_percent,
    format_score,
    human_normalised,
    mean_interval,
    published_ratio,
    seed_interval,
    seed_intervals,
    share_interval,
    standard_error,
)


def test_student_interval_by_hand():
    # sd 1, t(0.975, df 2) = 4.302653 from any table: 19 -+ 4.302653 / sqrt(3)
    e = seed_interval([18.0, 19.0, 20.0])
    assert (e.mean, e.n, e.sd) == (19.0, 3, 1.0)
    assert e.high - e.mean == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert e.low == pytest.approx(16.515863, abs=1e-5)
    # two seeds: t(0.975, df 1) = 12.7062, sd = sqrt(2)
    assert seed_interval([0.0, 2.0]).high == pytest.approx(1 + 12.7062, abs=1e-3)


def test_one_seed_has_no_interval_and_bad_scores_are_refused():
    assert seed_interval([3.0]) == Estimate(3.0, 1, seeds=(3.0,))
    for bad in ([], [1.0, float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match=r"seed scores"):
            seed_interval(bad)


def test_intervals_along_a_curve_are_those_of_each_place():
    scores = np.random.default_rng(0).normal(7.0, 3.0, (4, 6))
    expected = [seed_interval(scores[:, place]) for place in range(6)]
    for ours, name in zip(seed_intervals(scores), ("mean", "low", "high"), strict=True):
        assert ours.tolist() == pytest.approx([getattr(e, name) for e in expected], rel=1e-12)
    with pytest.raises(ValueError, match="two"):
        seed_intervals([[1.0, 2.0]])
    with pytest.raises(ValueError, match="finite"):
        seed_intervals([[1.0, np.nan], [1.0, 2.0]])


def test_student_interval_covers_95_percent():
    rng = np.random.default_rng(0)
    for n, expected in ((2, 0.95275), (3, 0.9485), (5, 0.944), (10, 0.9495)):
        intervals = [seed_interval(row) for row in rng.normal(7.0, 3.0, (4000, n))]
        covered = np.mean([e.low <= 7.0 <= e.high for e in intervals])
        assert covered == pytest.approx(expected, abs=1e-9)
        assert covered == pytest.approx(0.95, abs=0.01)


def test_published_standard_error():
    assert standard_error(1.3, 30) == pytest.approx(0.237346, abs=1e-6)
    assert standard_error(None, 30) is None
    assert standard_error(1.3, None) is None
    assert standard_error(0.0, 30) == 0.0


def test_ratio_of_pong():
    # (19 + 20.7) / (18.9 + 20.7) and, without the paper's error, our Student interval rescaled by 39.6
    g = published_ratio(seed_interval([18.0, 19.0, 20.0]), 18.9, -20.7)
    assert g.value == pytest.approx(39.7 / 39.6)
    assert g.low == pytest.approx((16.515863 + 20.7) / 39.6, abs=1e-6)
    assert g.high == pytest.approx((21.484138 + 20.7) / 39.6, abs=1e-6)
    # with it (sd 1.3 over 30 episodes) the interval is a little wider, and skewed upwards as Fieller's is
    both = published_ratio(seed_interval([18.0, 19.0, 20.0]), 18.9, -20.7, 1.3, 30)
    assert (both.low, both.high) == (pytest.approx(0.938748, abs=1e-6), pytest.approx(1.066604, abs=1e-6))
    assert both.high - g.high > g.low - both.low > 0
    # the bounds solve (a - g b)^2 = (t s_a)^2 + (g t s_b)^2, the definition
    for end in (both.low, both.high):
        ours, theirs = (4.302653**2) / 3, (2.045230 * 1.3) ** 2 / 30
        assert (39.7 - end * 39.6) ** 2 == pytest.approx(ours + end**2 * theirs, rel=1e-4)


def test_ratio_edges():
    assert published_ratio(seed_interval([5.0]), 10.0, 0.0, 1.0, 30).low is None
    same = published_ratio(seed_interval([21.0, 21.0, 21.0]), 20.0, 0.0)
    assert (same.low, same.value, same.high) == (1.05, 1.05, 1.05)
    # a margin of 1 known to -+ 2: nothing can be said
    wide = published_ratio(seed_interval([1.0, 1.0, 1.1]), 1.0, 0.0, 3.0, 9)
    assert (wide.low, wide.high) == (-math.inf, math.inf)
    # an sd "over one episode" carries no error
    ours = seed_interval([4.0, 5.0, 6.0])
    assert published_ratio(ours, 10.0, 0.0, 9.0, 1) == published_ratio(ours, 10.0, 0.0)
    with pytest.raises(ZeroDivisionError):
        published_ratio(ours, 0.0, 0.0)


@pytest.mark.parametrize(
    ("seeds", "sd_ours", "sd_paper", "expected"),
    # measured at 3,000 repetitions: never under 95 %; over it where two quantiles of small samples meet
    [
        (3, 1.0, 1.3, 0.966),
        (5, 1.0, 1.3, 0.963),
        (10, 1.0, 1.3, 0.965),
        (3, 0.3, 1.3, 0.981),
        (5, 1.0, 15.0, 0.955),
    ],
)
def test_ratio_interval_covers_95_percent(seeds, sd_ours, sd_paper, expected):
    """Ours: `seeds` runs around 18; the paper's: 30 episodes around 18.9; random play -20.7, as in Pong."""
    rng = np.random.default_rng(1)
    true, hits, repetitions = (18 + 20.7) / (18.9 + 20.7), 0, 1500
    for _ in range(repetitions):
        episodes = rng.normal(18.9, sd_paper, 30)
        ours = seed_interval(rng.normal(18.0, sd_ours, seeds))
        g = published_ratio(ours, episodes.mean(), -20.7, episodes.std(ddof=1), 30)
        hits += g.low <= true <= g.high
    assert hits / repetitions == pytest.approx(expected, abs=0.012)
    assert hits / repetitions >= 0.94


def test_leaving_out_the_published_error_would_cover_too_little():
    rng = np.random.default_rng(2)
    true, hits = (18 + 20.7) / (18.9 + 20.7), 0
    for _ in range(500):
        episodes = rng.normal(18.9, 15.0, 30)
        g = published_ratio(seed_interval(rng.normal(18.0, 1.0, 5)), episodes.mean(), -20.7)
        hits += g.low <= true <= g.high
    assert hits / 500 < 0.5


def test_human_normalised_score():
    r = human_normalised(seed_interval([18.9]), -20.7, 9.3)
    assert r.value == pytest.approx(1.32)
    assert r.low is None


def test_rounding_to_what_the_interval_allows():
    assert format_score(18.53, 0.41) == "18.5 ± 0.4"
    assert format_score(18.53, 0.13) == "18.53 ± 0.13"
    assert format_score(10596.4, 160) == "10,600 ± 160"
    assert format_score(10596.4, 431) == "10,600 ± 400"
    assert format_score(18.53) == "18.5"
    assert format_score(-20.7, 0.97) == "\u221220.7 ± 1.0"
    wide = [
        (2856, 5000),
        (797, 600),
        (-288.4, 160),
        (83.4, 90),
        (3.24, 5),
        (-5.71, 0.9),
        (0.0345, 0.5),
        (0, 5),
    ]
    assert [format_score(*pair) for pair in wide] == [
        "2,860 ± 5,000", "797 ± 600", "\u2212288 ± 160", "83 ± 90", "3.2 ± 5", "\u22125.7 ± 0.9", "0.03 ± 0.5", "0 ± 5",
    ]  # fmt: skip
    assert [decimals_for(u) for u in (None, 0.0, math.nan, 1.94, 1.96, 99.0)] == [1, 1, 1, 1, 0, -1]
    assert format_number(-0.04) == "0.0"
    assert format_number(123456.0, 0) == "123,456"
    assert [format_number(v) for v in (None, math.nan, math.inf, -math.inf)] == [
        "\u2013",
        "\u2013",
        "∞",
        "\u2212∞",
    ]


def test_percent():
    values = [0.0102, 0.12, 0.00004, 1.0, 0.9999, 0.5, 0.0, -0.3, 1.234]
    assert [format_percent(v) for v in values] == [
        "1.0 %", "12 %", "0.004 %", "100 %", "99.99 %", "50 %", "0 %", "\u221230 %", "123 %",
    ]  # fmt: skip


def test_a_bounded_score_has_an_interval_inside_its_bounds():
    scores = [244.0, 440.0, 492.0, 500.0, 500.0]
    free, bounded = seed_interval(scores), seed_interval(scores, bounds=(0.0, 500.0))
    assert free.high > 500
    assert (bounded.method, bounded.mean) == ("bootstrap", free.mean)
    assert min(scores) <= bounded.low < bounded.mean < bounded.high <= 500
    assert seed_interval(scores, bounds=(0.0, 1000.0)) == free
    assert mean_interval(scores) == mean_interval(scores)
    many = seed_interval([*scores, *scores], bounds=(0.0, 500.0))
    assert estimate_in_words(bounded) == "435 (seeds 244, 440, 492, 500, 500)"
    assert estimate_in_words(many) == "435 (95 % bootstrap interval 370 to 490)"


def test_the_share_of_seeds_that_reach_a_bar():
    assert share_interval(4, 5) == (pytest.approx(0.28358, abs=1e-5), pytest.approx(0.99495, abs=1e-5))
    assert share_interval(5, 5) == (pytest.approx(0.47818, abs=1e-5), 1.0)  # 0.025 ** (1 / 5)
    assert share_interval(0, 3)[0] == 0.0
    with pytest.raises(ValueError, match="6 of 5"):
        share_interval(6, 5)
