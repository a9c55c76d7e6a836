"""Thompson sampling: Thompson 1933, as in Chapelle & Li, "An Empirical Evaluation of Thompson Sampling", NIPS 2011, section 3 and
Figure 1.

One arm pays 1 with probability 0.5, the others with 0.5 - epsilon. Thompson sampling draws a probability for each arm from its
posterior, Beta(wins + 1, losses + 1), and plays the arm whose draw is the largest. Its regret grows as slowly as any can
(Lai & Robbins 1985), and stays below that of upper confidence bounds. `paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.bandits.thompson --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main
from replications.bandits.agents import largest
from replications.bandits.ucb1 import lai_robbins, ucb1_values


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's, section 3, or fill-ins that paper.yaml names."""

    best: float = 0.5  # probability of a reward of the best arm
    few_arms: int = 10  # K
    many_arms: int = 100  # K
    wide_gap: float = 0.1  # epsilon
    narrow_gap: float = 0.02  # epsilon
    plays: int = 1_000_000  # T; the paper's Figure 1 goes on to 10^7 and 10^8 for the harder settings
    many_plays: int = 100_000  # T with many arms; the paper has 10^7
    update_period: int = 100  # plays between updates of posterior and counters
    runs: int = 5  # repetitions; the paper has 100, ten seeds together 50


METHODS = ("Thompson sampling", "UCB", "UCB1")


def ucb_values(wins: np.ndarray, counts: np.ndarray, t: float) -> np.ndarray:
    """The upper confidence bound that the paper compares with: mean + sqrt(2 mean x / m) + 2 x / m, where x = ln(1 / delta) and
    delta = sqrt(1 / t).
    """
    x, mean = 0.5 * np.log(t), wins / counts
    return mean + np.sqrt(2 * mean * x / counts) + 2 * x / counts


def thompson_choices(
    wins: np.ndarray, counts: np.ndarray, plays: int, rng: np.random.Generator
) -> np.ndarray:
    """(runs, arms) -> (runs, arms) int: how many of the next `plays` each arm gets while its posterior stays as it is."""
    runs, arms = wins.shape
    draws = rng.beta(wins + 1, counts - wins + 1, (plays, runs, arms))
    chosen = draws.argmax(axis=2) + np.arange(runs) * arms
    return np.bincount(chosen.ravel(), minlength=runs * arms).reshape(runs, arms)


def play(
    method: str, arms: int, gap: float, plays: int, config: Config, rng: np.random.Generator, marks: np.ndarray
) -> np.ndarray:  # fmt: skip
    """-> mean pseudo-regret over runs at each of the marks (plays, multiples of the update period).

    Posterior and counters are updated once in `update_period` plays, so a rule without chance plays one arm all that time.
    """
    runs, period = config.runs, config.update_period
    p = np.full(arms, config.best - gap)
    p[0] = config.best
    wins, counts = np.zeros((runs, arms)), np.zeros((runs, arms))
    rows, regret = np.arange(runs), np.zeros(runs)
    at_marks = []
    for t in range(0, plays, period):
        if method == "Thompson sampling":
            share = thompson_choices(wins, counts, period, rng)
        else:
            known = np.maximum(counts, 1)
            values = (
                ucb_values(wins, known, max(t, 2)) if method == "UCB" else ucb1_values(wins / known, known, max(t, 2))
            )  # fmt: skip
            share = np.zeros((runs, arms), int)
            share[rows, largest(np.where(counts == 0, np.inf, values), rng)] = period
        wins += rng.binomial(share, p)
        counts += share
        regret += gap * share[:, 1:].sum(axis=1)
        if t + period == marks[len(at_marks)]:
            at_marks.append(float(regret.mean()))
            if len(at_marks) == len(marks):
                break
    return np.array(at_marks)


def marks_of(plays: int, period: int) -> np.ndarray:
    """About ten places a decade, and a tenth of all plays, as multiples of the period."""
    places = np.append(np.geomspace(period, plays, 41), plays / 10)
    return np.unique((places / period).round().astype(int) * period)


def slope(marks: np.ndarray, regret: np.ndarray) -> float:
    """d regret / d ln T over the last decade."""
    tenth = np.searchsorted(marks, marks[-1] / 10)
    return float((regret[-1] - regret[tenth]) / np.log(marks[-1] / marks[tenth]))


def experiment(config: Config, seed: int) -> Findings:
    c = config
    if min(c.few_arms, c.many_arms) < 2 or c.runs < 1 or not 0 < max(c.wide_gap, c.narrow_gap) < c.best < 1:
        raise UserError(
            "allowed are 2 arms and 1 run or more, and gaps above 0 and below the best arm's probability"
        )
    if c.update_period < 1 or any(n < 100 * c.update_period or n % (10 * c.update_period) for n in (c.plays, c.many_plays)):  # fmt: skip
        raise UserError(
            f"plays {c.plays} and many_plays {c.many_plays}: allowed are multiples of 10 x update_period {c.update_period}, at least "
            "ten of them"
        )
    settings = {
        "few_wide": (c.few_arms, c.wide_gap, c.plays),
        "few_narrow": (c.few_arms, c.narrow_gap, c.plays),
        "many_wide": (c.many_arms, c.wide_gap, c.many_plays),
    }
    measures, points = {}, []
    for place, (name, (arms, gap, plays)) in enumerate(settings.items()):
        marks, found = marks_of(plays, c.update_period), {}
        constant = lai_robbins((c.best, *[c.best - gap] * (arms - 1)))
        for number, method in enumerate(METHODS):
            rng = np.random.default_rng((seed, place, number))
            regret = found[method] = play(method, arms, gap, plays, c, rng, marks)
            points += [(name, method, int(t), y) for t, y in zip(marks, regret, strict=True)]
            key = method.split()[0].lower()
            measures[f"{key}_regret_{name}"] = float(regret[-1])
            measures[f"{key}_slope_{name}"] = slope(marks, regret)
        tenth, last = np.searchsorted(marks, plays / 10), found["Thompson sampling"][-1]
        # Lai and Robbins's line has a slope only: it is drawn through the last point
        points += [(name, "slope of Lai and Robbins", int(t), last - constant * np.log(plays / t)) for t in marks[tenth:]]  # fmt: skip
        measures[f"thompson_over_ucb_{name}"] = float(last / found["UCB"][-1])
        measures[f"ucb_over_ucb1_{name}"] = float(found["UCB"][-1] / found["UCB1"][-1])
        measures[f"slope_over_lai_robbins_{name}"] = measures[f"thompson_slope_{name}"] / constant
    return Findings(measures, points)


if __name__ == "__main__":
    main("bandits", "thompson", Config, experiment)
