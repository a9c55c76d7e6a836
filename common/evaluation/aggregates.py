"""Scores over many tasks: means that outliers do not decide, and their intervals (Agarwal et al., NeurIPS 2021).

`scores` is one array a task, normalised, with runs along the last axis; tasks may have different numbers of runs, and each task
weighs the same: all is as if its runs were repeated until every task had as many. Axes before the last are drawings of a
bootstrap. Intervals are of the stratified bootstrap: runs are drawn anew, with replacement, within each task. It sees no spread
where a task has one run, and too little where it has few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from common.evaluation.statistics import CONFIDENCE

REPETITIONS = 2000
Scores = Sequence[np.ndarray]  # of each task its runs, (..., runs) float64
Statistic = Callable[[Scores], np.ndarray]  # -> (...)


def checked(scores: Sequence[Sequence[float]]) -> list[np.ndarray]:
    """As arrays. Raises ValueError for no task, a task without runs, or a number that is not finite."""
    arrays = [np.asarray(runs, dtype=np.float64) for runs in scores]
    if not arrays or any(a.ndim != 1 or not a.size for a in arrays):
        raise ValueError("scores: one array of at least one run is needed for each task")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("scores: a value is not a finite number")
    return arrays


def _means(scores: Scores) -> np.ndarray:
    """(..., tasks)"""
    return np.stack([runs.mean(-1) for runs in scores], axis=-1)


def interquartile_mean(scores: Scores) -> np.ndarray:
    """Mean of the middle half of all runs; a quarter of them, rounded down, is cut at each end."""
    values = np.concatenate(scores, axis=-1)
    order = np.argsort(values, axis=-1)
    weights = np.concatenate([np.full(runs.shape[-1], 1 / runs.shape[-1]) for runs in scores])
    shares = weights[order]  # of each value in order; all of them are as many as there are tasks
    equal = np.lcm.reduce([runs.shape[-1] for runs in scores])  # runs that each task is repeated to
    cut = float(Fraction(int(equal) * len(scores) // 4, int(equal)))
    ends = np.clip(np.cumsum(shares, axis=-1), cut, len(scores) - cut)
    kept = np.diff(ends, axis=-1, prepend=cut)
    return (np.take_along_axis(values, order, -1) * kept).sum(-1) / (len(scores) - 2 * cut)


def median(scores: Scores) -> np.ndarray:
    """Median over tasks of each task's mean over runs."""
    return np.median(_means(scores), axis=-1)


def mean(scores: Scores) -> np.ndarray:
    return _means(scores).mean(-1)


def optimality_gap(scores: Scores) -> np.ndarray:
    """How far runs fall short of 1 on average, those above it counted as 1."""
    return 1 - mean([np.minimum(runs, 1) for runs in scores])


def share_above(level: float) -> Statistic:
    """The share of tasks whose mean over runs is above `level`."""
    return lambda scores: (_means(scores) > level).mean(-1)


def drawn_again(scores: Scores, repetitions: int = REPETITIONS, seed: int = 0) -> list[np.ndarray]:
    """Of each task (repetitions, runs), drawn anew from its own runs. The same seed gives the same drawings."""
    counts = np.array([len(runs) for runs in scores])
    pick = np.random.default_rng(seed).integers(0, counts, (repetitions, counts.max(), len(scores)))
    return [runs[pick[:, : len(runs), task]] for task, runs in enumerate(scores)]


def interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentiles between which `confidence` of the values lie."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def with_interval(
    scores: Sequence[Sequence[float]], statistic: Statistic, repetitions: int = REPETITIONS
) -> tuple[float, tuple[float, float] | None]:
    """A statistic and its interval; None where no task has two runs. Raises ValueError as `checked` does."""
    arrays = checked(scores)
    value = float(statistic(arrays))
    if all(len(runs) < 2 for runs in arrays):
        return value, None
    return value, interval(statistic(drawn_again(arrays, repetitions)))


def performance_profile(
    scores: Sequence[Sequence[float]], levels: Sequence[float], repetitions: int = REPETITIONS
) -> np.ndarray:
    """The share of runs above each level, tasks weighing the same, and its interval's ends, (levels, 3), each level for itself.

    The ends are the share itself where no task has two runs.
    """

    def shares(scores: Scores) -> list[np.ndarray]:
        return [mean([(runs > level).astype(float) for runs in scores]) for level in levels]

    arrays = checked(scores)
    found = shares(arrays)
    if all(len(runs) < 2 for runs in arrays):
        return np.array([(share, share, share) for share in found])
    drawn = shares(drawn_again(arrays, repetitions))
    return np.array([(share, *interval(values)) for share, values in zip(found, drawn, strict=True)])
