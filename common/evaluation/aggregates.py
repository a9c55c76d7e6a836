"""Scores over many tasks: means that outliers do not decide, and their intervals (Agarwal et al., NeurIPS 2021).

`scores` is one array of runs a task, normalised; tasks may have different numbers of runs. Each task weighs the same. Intervals
are of the stratified bootstrap: runs are drawn anew, with replacement, within each task. It sees no spread where a task has one
run, and too little where it has few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from common.evaluation.statistics import CONFIDENCE

REPETITIONS = 2000
Scores = Sequence[np.ndarray]  # of each task its runs, (runs,) float64
Statistic = Callable[[np.ndarray], np.ndarray]  # (..., runs x tasks table) -> (...)


def as_table(scores: Scores) -> np.ndarray:
    """(runs, tasks): each task's runs repeated until all have as many. Raises ValueError for none, or a number that is not finite."""
    arrays = [np.asarray(runs, dtype=np.float64) for runs in scores]
    if not arrays or any(a.ndim != 1 or not a.size for a in arrays):
        raise ValueError("scores: one array of at least one run is needed for each task")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("scores: a value is not a finite number")
    rows = math.lcm(*(len(a) for a in arrays))
    return np.stack([np.repeat(a, rows // len(a)) for a in arrays], axis=1)


def interquartile_mean(table: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs x tasks; a quarter of them, rounded down, is cut at each end."""
    flat = np.sort(table.reshape(*table.shape[:-2], -1), axis=-1)
    cut = int(0.25 * flat.shape[-1])
    return flat[..., cut : flat.shape[-1] - cut].mean(-1)


def median(table: np.ndarray) -> np.ndarray:
    """Median over tasks of each task's mean over runs."""
    return np.median(table.mean(-2), axis=-1)


def mean(table: np.ndarray) -> np.ndarray:
    return table.mean((-2, -1))


def optimality_gap(table: np.ndarray) -> np.ndarray:
    """How far runs fall short of 1 on average, those above it counted as 1."""
    return 1 - np.minimum(table, 1).mean((-2, -1))


def share_above(level: float) -> Statistic:
    """The share of tasks whose mean over runs is above `level`."""
    return lambda table: (table.mean(-2) > level).mean(-1)


def drawn_again(scores: Scores, repetitions: int = REPETITIONS, seed: int = 0) -> np.ndarray:
    """(repetitions, runs, tasks): tables whose runs were drawn anew within each task. The same seed gives the same tables."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(runs, dtype=np.float64) for runs in scores]
    rows = math.lcm(*(len(a) for a in arrays))
    drawn = [a[rng.integers(0, len(a), (repetitions, len(a)))] for a in arrays]
    return np.stack([np.repeat(d, rows // d.shape[1], axis=1) for d in drawn], axis=2)


def interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentiles between which `confidence` of the values lie."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def with_interval(scores: Scores, statistic: Statistic) -> tuple[float, tuple[float, float] | None]:
    """A statistic and its interval; None where no task has two runs."""
    value = float(statistic(as_table(scores)))
    if all(len(runs) < 2 for runs in scores):
        return value, None
    return value, interval(statistic(drawn_again(scores)))


def performance_profile(scores: Scores, levels: Sequence[float]) -> np.ndarray:
    """The share of runs above each level, tasks weighing the same, (levels,)."""
    table = as_table(scores)
    return np.array([(table > level).mean() for level in levels])
