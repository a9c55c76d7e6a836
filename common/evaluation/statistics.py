"""Statistics of a replication: intervals over seeds and the distance to a published score.

A seed's score is one number (what the paper's protocol says, usually a mean over evaluation episodes); everything
here treats the seeds as the sample, never the episodes: episodes of one trained network say nothing about the next
training run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEW = 5  # seeds; so few are all told, and from fewer episodes no spread is drawn
MINUS, DASH = "\u2212", "\u2013"  # typographic; DASH stands for "not available"


@dataclass(frozen=True)
class Estimate:
    """Mean of `n` seed scores. `sd` (n - 1 in the denominator), `low` and `high` are None for a single seed.

    method: what the interval is, Student's or a bootstrap; seeds: the scores themselves.
    """

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = "Student"
    seeds: tuple[float, ...] = ()

    @property
    def standard_error(self) -> float | None:
        return standard_error(self.sd, self.n)


@dataclass(frozen=True)
class Ratio:
    """`value` with its 95 % interval; `low`/`high` are None without an interval, -inf/inf where it is unbounded."""

    value: float
    low: float | None = None
    high: float | None = None


@cache  # scipy takes a millisecond for each, and a band has hundreds of points
def _student(share: float, freedom: int) -> float:
    """Student's quantile."""
    return float(stats.t.ppf(share, freedom))


def _finite(values: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"{what}: no values; at least one is needed")
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: {array.tolist()} holds a value that is not a finite number")
    return array


def seed_interval(
    scores: Sequence[float],
    confidence: float = CONFIDENCE,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Mean and Student interval over seed scores (1-D, score units). One seed gives a mean without an interval.

    bounds: lowest and highest score that can be; where Student's interval leaves them it is a bootstrap's instead, which
    never does. Raises ValueError for an empty list or a score that is not finite.
    """
    x = _finite(scores, "seed scores")
    mean, n, seeds = float(x.mean()), len(x), tuple(float(score) for score in x)
    if n == 1:
        return Estimate(mean, 1, seeds=seeds)
    sd = float(x.std(ddof=1))
    half = _student(0.5 + confidence / 2, n - 1) * sd / math.sqrt(n)
    if sd > 0 and (mean - half < bounds[0] or mean + half > bounds[1]):
        return Estimate(mean, n, sd, *mean_interval(x, confidence=confidence), "bootstrap", seeds)
    return Estimate(mean, n, sd, mean - half, mean + half, seeds=seeds)


def seed_intervals(scores: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high end of `seed_interval` at each place of a curve, three arrays (places,).

    scores: (seeds, places), two seeds at least. Raises ValueError as `seed_interval` does.
    """
    x = _finite(scores, "seed scores")
    if len(x) < 2:
        raise ValueError(f"{len(x)} seed: an interval needs two at least")
    mean, n = x.mean(0), len(x)
    half = _student(0.5 + CONFIDENCE / 2, n - 1) * x.std(0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def mean_interval(
    scores: Sequence[float], repetitions: int = 10_000, seed: int = 0, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile interval of the mean, seeds drawn anew: never outside of the scores. With few seeds it is too narrow, so it
    stands with the seeds' scores only. The same seed gives the same interval. Source: Efron, Ann. Stat. 7 (1979) 1-26.
    """
    x = _finite(scores, "scores")
    means = x[np.random.default_rng(seed).integers(0, len(x), (repetitions, len(x)))].mean(1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def share_interval(count: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share of which `count` of `n` were seen. Source: Clopper and Pearson, Biometrika 26 (1934) 404-413."""
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"{count} of {n}: a count of 0 to n, and n of at least 1, are needed")
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, count, n - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    return low, high


def standard_error(sd: float | None, n: int | None) -> float | None:
    """sd / sqrt(n), or None where either was not printed."""
    if sd is None or n is None:
        return None
    if sd < 0 or n < 1:
        raise ValueError(f"standard error of sd={sd} over n={n}: sd must be at least 0 and n at least 1")
    return sd / math.sqrt(n)


def published_ratio(
    ours: Estimate,
    published: float,
    random: float,
    published_sd: float | None = None,
    published_n: int | None = None,
    confidence: float = CONFIDENCE,
) -> Ratio:
    """g = (ours - random) / (published - random) with Fieller's interval, which carries both errors.

    Fieller's interval is the set of g at which (ours - random) - g (published - random) is not distinguishable from
    0; its half-width is sqrt((t_ours se_ours)^2 + (g t_published se_published)^2), each error with the Student
    quantile of its own sample size. Unlike the delta method it stays right when the published margin is known badly,
    and it is then wide, or unbounded (-inf, inf); unlike a pooled quantile it keeps its coverage at 3 seeds
    (simulated in the tests). The random score is taken as known. Where the published error is not printed
    (`published_sd` or `published_n` None) only our own error enters, and the interval is our Student interval
    rescaled. One seed gives no interval.

    Source: Fieller, J. R. Stat. Soc. B 16 (1954) 175-185, with Howe's combination (JASA 69, 1974, 789-794) of the two
    quantiles. Raises ZeroDivisionError when published == random.
    """
    a, b = ours.mean - random, published - random
    g = a / b
    if ours.sd is None:
        return Ratio(g)
    tail = 0.5 + confidence / 2
    wide_a = _student(tail, ours.n - 1) ** 2 * ours.sd**2 / ours.n
    wide_b = 0.0
    # The sd of one episode would be undefined: such a row carries no error we can use.
    if published_sd is not None and published_n is not None and published_n > 1:
        wide_b = _student(tail, published_n - 1) ** 2 * standard_error(published_sd, published_n) ** 2
    denominator = b * b - wide_b
    if denominator <= 0:
        return Ratio(g, -math.inf, math.inf)
    root = math.sqrt(max(0.0, a * a * wide_b + b * b * wide_a - wide_a * wide_b))
    ends = ((a * b - root) / denominator, (a * b + root) / denominator)
    return Ratio(g, min(ends), max(ends))


def human_normalised(ours: Estimate, random: float, human: float) -> Ratio:
    """(ours - random) / (human - random), interval from our seeds only: the human score's error is not printed
    anywhere.

    Raises ZeroDivisionError when human == random.
    """
    return published_ratio(ours, human, random)


def decimals_for(uncertainty: float | None) -> int:
    """Decimals (negative: tens, hundreds) that an uncertainty allows: its first digit, or the first two where it
    starts with 1.

    Without an uncertainty, or with 0, one decimal.
    """
    if uncertainty is None or not math.isfinite(uncertainty) or uncertainty <= 0:
        return 1
    exponent = math.floor(math.log10(uncertainty))
    leading = round(uncertainty / 10**exponent, 6)
    if leading >= 9.5:  # rounds up to the next power of ten: 0.97 -> 1.0
        exponent, leading = exponent + 1, 1.0
    return min(6, -exponent + (1 if leading < 1.95 else 0))


def decimals_of_mean(mean: float, uncertainty: float | None) -> int:
    """Decimals of a mean: those of its uncertainty, and never fewer than show two digits of it, or three of a whole number.

    A fraction has at most one more than its uncertainty.
    """
    decimals = decimals_for(uncertainty)
    if not mean or not math.isfinite(mean):
        return decimals
    first = -math.floor(math.log10(abs(mean)))
    return max(decimals, min(first + 2, 0), min(first + 1, decimals + 1))


def format_number(value: float | None, decimals: int = 1) -> str:
    """-1234.56 at 1 decimal is `-1,234.6`, with a real minus sign; negative decimals round to tens; None and NaN are a
    dash; never `-0.0`."""
    if value is None or not math.isfinite(value):
        return DASH if value is None or math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    rounded = round(float(value), decimals) + 0.0
    return f"{rounded:,.{max(0, decimals)}f}".replace("-", MINUS)


def format_mean(mean: float, uncertainty: float | None) -> str:
    """A mean with the decimals of `decimals_of_mean`."""
    return format_number(mean, decimals_of_mean(mean, uncertainty))


def as_printed(value: float) -> str:
    """All its digits, as a table prints them: -20.7, 6,846, 0.00025."""
    text = f"{value:,.10f}".rstrip("0").rstrip(".") if 1e-9 < abs(value) < 1e15 else f"{value:g}"
    return text.replace("-", MINUS)


def format_score(value: float, uncertainty: float | None = None) -> str:
    """A score rounded to what its uncertainty allows: 18.53 ± 0.41 is `18.5 ± 0.4`; without one, `18.5`."""
    if uncertainty is None or not math.isfinite(uncertainty):
        return format_number(value)
    return f"{format_mean(value, uncertainty)} ± {format_number(uncertainty, decimals_for(uncertainty))}"


def estimate_in_words(ours: Estimate) -> str:
    """`18.5 ± 0.4` over seeds (half the 95 % interval); where seeds are equal, or the interval is no Student's, in words."""
    if ours.high is None:
        return format_score(ours.mean)
    half = max(ours.high - ours.mean, ours.mean - ours.low)
    if half <= 1e-9 * max(1.0, abs(ours.mean)):
        return f"{format_number(ours.mean, 1)} in each seed"
    if ours.method == "Student":
        return format_score(ours.mean, half)
    decimals, mean = decimals_for(half), format_mean(ours.mean, half)
    low, high = (format_number(x, decimals) for x in (ours.low, ours.high))
    if ours.n <= FEW:
        return f"{mean} ({_each(ours, decimals)})"
    return f"{mean} (95 % bootstrap interval {low} to {high})"


def _each(ours: Estimate, decimals: int) -> str:
    return f"seeds {', '.join(format_number(x, max(0, decimals)) for x in sorted(ours.seeds))}"


def columns_in_words(ours: Estimate) -> tuple[str, str]:
    """What stands in a table's columns of means and of 95 % intervals: (`18.5`, `18.1 to 18.9`), rounded to what the interval
    allows; instead of a bootstrap of few seeds, their scores.
    """
    if ours.low is None or ours.high is None:
        return format_number(ours.mean), "one seed"
    half = max(ours.high - ours.mean, ours.mean - ours.low)
    if half <= 1e-9 * max(1.0, abs(ours.mean)):
        return format_number(ours.mean), f"the same in {ours.n} seeds"
    decimals = max(0, decimals_for(half))
    mean, low, high = (format_number(x, decimals) for x in (ours.mean, ours.low, ours.high))
    if ours.method == "Student":
        return mean, f"{low} to {high}"
    return mean, _each(ours, decimals) if ours.n <= FEW else f"{low} to {high} (bootstrap)"


def format_percent(fraction: float | None) -> str:
    """`0.0102` is `1.0 %`, `0.12` is `12 %`, `0.00004` is `0.004 %`, `1` is `100 %`; just under 1 never reads 100 %."""
    if fraction is None or not math.isfinite(fraction):
        return DASH
    percent = 100 * fraction
    if 0 < abs(percent) < 10:
        decimals = max(1, -math.floor(math.log10(abs(percent))))
    else:
        decimals = 0
        while 99 < percent < 100 and round(percent, decimals) >= 100 and decimals < 6:
            decimals += 1
    return f"{format_number(percent, decimals)} %"
