"""The overestimation of van Hasselt, Guez & Silver, "Deep Reinforcement Learning with Double Q-learning", AAAI 2016, without
learning: Theorems 1 and 2, Figures 1 and 2.

The maximum of uncertain action values is biased upwards. Choosing with one set of values and evaluating with another,
independent one (the double estimate) is not, or much less. `paper.yaml` holds the constants and the claims that are checked.

    ./run python -m replications.double_dqn.overestimation --seed 1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats

from common.errors import UserError
from common.runs.laptop import Findings, main


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's, or ours where it needs none (a theorem)."""

    theorem_1_draws: int = 2_000  # random sets of action values, each with errors that sum to zero
    theorem_2_repetitions: int = 100_000  # draws of all actions' errors, for each number of actions
    repetitions: int = 100  # of each number of actions; Figure 1
    most_actions: int = 1_024  # 2, 4, ... up to this; Figure 1
    fitted_actions: int = 10  # Figure 2
    grid_points: int = 1_201  # states in [-6, 6] at which Figure 2 is averaged


# --- the two estimates ---


def single_estimate(values: np.ndarray) -> np.ndarray:
    """max_a Q(a) over the last axis: what Q-learning's target uses."""
    return values.max(axis=-1)


def double_estimate(values: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Q'(argmax_a Q(a)): chosen with `values`, evaluated with `second`, both (..., actions)."""
    return np.take_along_axis(second, values.argmax(axis=-1)[..., None], axis=-1)[..., 0]


# --- Theorem 1: a lower bound ---


def lower_bound(m: int, mean_square: float) -> float:
    """sqrt(C / (m - 1)): the least overestimation of m unbiased action values with mean square error C."""
    return float(np.sqrt(mean_square / (m - 1)))


def tight_errors(m: int, mean_square: float) -> np.ndarray:
    """(m,) the errors that reach the bound: m - 1 at sqrt(C / (m - 1)), one at -sqrt((m - 1) C). Proof of Theorem 1."""
    return np.append(np.full(m - 1, np.sqrt(mean_square / (m - 1))), -np.sqrt((m - 1) * mean_square))


def theorem_1(config: Config, rng: np.random.Generator) -> dict[str, float]:
    """The share of random errors that respect the bound, and how far the tight ones are from it (relative to it)."""
    held, off, double = 0, 0.0, 0.0
    for _ in range(config.theorem_1_draws):
        m = int(rng.integers(2, config.most_actions + 1))
        true, scale = rng.normal(scale=10.0), 10 ** rng.uniform(-2, 2)
        errors = rng.normal(scale=scale, size=m) * rng.exponential(size=m)
        errors -= errors.mean()
        mean_square = float(np.mean(errors**2))
        bound = lower_bound(m, mean_square)
        held += bool(single_estimate(true + errors) - true >= bound - 1e-9 * scale)
        tight = tight_errors(m, mean_square)
        bound = lower_bound(m, float(np.mean(tight**2)))
        off = max(
            off,
            abs((single_estimate(true + tight) - true) / bound - 1),
            abs(tight.sum()) / np.abs(tight).sum(),
        )
        second = (
            true + errors - errors[np.argmax(errors)]
        )  # an estimate of its own that is exact where the first is largest
        double = max(double, abs(double_estimate(true + errors, second) - true) / scale)
    return {"bound_held": held / config.theorem_1_draws, "tight_off": float(off), "double_off": float(double)}


# --- Theorem 2: uniform errors ---


def uniform_bias(m: int) -> float:
    """E[max of m errors] = (m - 1) / (m + 1) for errors uniform in [-1, 1]."""
    return (m - 1) / (m + 1)


def theorem_2(config: Config, rng: np.random.Generator) -> tuple[dict[str, float], list]:
    measures, points = {}, []
    for m in (2, 4, 10, 32, 100):
        # the largest of m in blocks: a hundred thousand times a hundred numbers need not stand in memory at once
        blocks = np.array_split(
            np.empty(config.theorem_2_repetitions), -(-config.theorem_2_repetitions * m // 1_000_000)
        )
        total = sum(single_estimate(rng.uniform(-1, 1, (len(block), m))).sum() for block in blocks)
        bias = float(total / config.theorem_2_repetitions)
        measures[f"uniform_bias_{m}"] = bias - uniform_bias(m)
        points += [
            ("theorem_2", "max, measured", m, bias),
            ("theorem_2", "(m - 1) / (m + 1)", m, uniform_bias(m)),
        ]
    return measures, points


# --- Figure 1: normal errors ---


def normal_bias(m: int) -> float:
    """E[max of m standard normal errors], by numerical integration of x d(Phi(x)^m)."""
    density = lambda x: x * m * stats.norm.pdf(x) * stats.norm.cdf(x) ** (m - 1)  # noqa: E731
    return float(integrate.quad(density, -12, 12, limit=200, points=(0.0, 2.0, 4.0))[0])


def figure_1(config: Config, rng: np.random.Generator) -> tuple[dict[str, float], list]:
    """Mean bias of both estimates over the repetitions, all actions of the same true value; and against theory."""
    single, double, theory, points = [], [], [], []
    actions = [2**k for k in range(1, config.most_actions.bit_length())]
    for m in actions:
        values, second = rng.normal(size=(2, config.repetitions, m))
        single.append(float(single_estimate(values).mean()))
        double.append(float(double_estimate(values, second).mean()))
        theory.append(normal_bias(m))
        points += [
            ("figure_1", "single: max Q", m, single[-1]), ("figure_1", "double: Q'(argmax Q)", m, double[-1]),
            ("figure_1", "single, theory", m, theory[-1]),
        ]  # fmt: skip
    gaps = np.subtract(single, theory)
    return {
        "single_smallest": single[0],
        "single_largest": single[-1],
        "single_growth_a_doubling": float(np.polyfit(np.log2(actions), single, 1)[0]),
        "single_from_theory": float(gaps.mean()),
        "double_mean": float(np.mean(double)),
        "double_largest": double[-1],
    }, points


# --- Figure 2: inflexible and overfitting function approximation ---

ROWS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {  # true values, degree of the polynomials
    "row_1": (np.sin, 6),
    "row_2": (lambda s: 2 * np.exp(-(s**2)), 6),
    "row_3": (lambda s: 2 * np.exp(-(s**2)), 9),
}


def sample_states(action: int) -> np.ndarray:
    """(11,) the integers of [-6, 6] without two neighbours: -5 and -4 for action 0, -4 and -3 for action 1, ..."""
    return np.array([s for s in range(-6, 7) if s not in (action - 5, action - 4)], dtype=float)


def fitted(row: str, actions: int, states: np.ndarray) -> np.ndarray:
    """(states, actions): each action's least-squares polynomial through the true values at its own sample states."""
    truth, degree = ROWS[row]
    fits = [np.polynomial.Polynomial.fit(x := sample_states(a), truth(x), degree) for a in range(actions)]
    return np.stack([fit(states) for fit in fits], axis=1)


def figure_2(config: Config) -> tuple[dict[str, float], list]:
    """Errors of both estimates over [-6, 6]; the second set of values is that of the action five further on."""
    states = np.linspace(-6, 6, config.grid_points)
    measures, points = {}, []
    for row, (truth, _) in ROWS.items():
        values = fitted(row, config.fitted_actions, states)
        second = np.roll(values, config.fitted_actions // 2, axis=1)
        single = single_estimate(values) - truth(states)
        double = double_estimate(values, second) - truth(states)
        measures[f"{row}_single"], measures[f"{row}_double"] = float(single.mean()), float(double.mean())
        measures[f"{row}_overestimated"] = float((single > 0).mean())
        for name, errors in (("single: max Q", single), ("double: Q'(argmax Q)", double)):
            points += [(f"figure_2_{row}", name, s, e) for s, e in zip(states[::8], errors[::8], strict=True)]
    return measures, points


def experiment(config: Config, seed: int) -> Findings:
    c, rng = config, np.random.default_rng(seed)
    if (
        min(c.theorem_1_draws, c.theorem_2_repetitions, c.repetitions) < 1
        or min(c.most_actions, c.grid_points) < 2
    ):
        raise UserError("draws and repetitions must be 1 or more, most_actions and grid_points 2 or more")
    if not 2 <= c.fitted_actions <= 10:
        raise UserError(
            f"fitted_actions {c.fitted_actions}: allowed is 2 to 10, one for each pair of neighbours left out"
        )
    second, second_points = theorem_2(config, rng)
    first, first_points = figure_1(config, rng)
    fits, fits_points = figure_2(config)
    measures = {**theorem_1(config, rng), **second, **first, **fits}
    return Findings(measures, [*first_points, *fits_points, *second_points])


if __name__ == "__main__":
    main("double_dqn", "overestimation", Config, experiment)
