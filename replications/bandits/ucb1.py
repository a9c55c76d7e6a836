"""UCB1 and UCB1-tuned: Auer, Cesa-Bianchi & Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", Machine Learning 47,
2002: Theorem 1 on the seven distributions of section 4.

Rewards are 0 or 1. UCB1 plays the arm with the largest mean + sqrt(2 ln n / n_j); its regret stays below Theorem 1's bound at every n.
UCB1-tuned puts an estimate of the arm's variance into the width, has no proof, and does better. All distributions and runs are
played side by side in one array. `paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.bandits.ucb1 --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main
from replications.bandits.agents import largest


@dataclass(frozen=True)
class Config:
    """Defaults are the paper's, section 4."""

    plays: int = 100_000  # of a run
    runs: int = 20  # of each distribution; the paper has 100, ten seeds together 200
    epsilon_c: float = 0.1  # c of epsilon_n-greedy, one of those plotted (.05 to .4)


# Probabilities of a reward, the best arm first; section 4
DISTRIBUTIONS = {
    "1": (0.9, 0.6),
    "2": (0.9, 0.8),
    "3": (0.55, 0.45),
    "11": (0.9, *[0.6] * 9),
    "12": (0.9, *[0.8] * 3, *[0.7] * 3, *[0.6] * 3),
    "13": (0.9, *[0.8] * 9),
    "14": (0.55, *[0.45] * 9),
}
POLICIES = ("UCB1", "UCB1-tuned", "epsilon_n-greedy")


# --- theory ---


def bound(arms: tuple[float, ...], plays: float) -> float:
    """Theorem 1: the expected regret of UCB1 after `plays` is at most 8 sum_i ln n / Delta_i + (1 + pi^2 / 3) sum_j Delta_j."""
    gaps = max(arms) - np.array(arms)
    return float(8 * np.log(plays) * (1 / gaps[gaps > 0]).sum() + (1 + np.pi**2 / 3) * gaps.sum())


def divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of a reward with probability p from one with probability q, both strictly between 0 and 1."""
    return float(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def lai_robbins(arms: tuple[float, ...]) -> float:
    """C of Lai & Robbins 1985: no uniformly good policy has a regret that grows slower than C ln n, in the limit."""
    best = max(arms)
    return sum((best - p) / divergence(p, best) for p in arms if p < best)


# --- policies ---


def ucb1_values(means: np.ndarray, counts: np.ndarray, n: np.ndarray | float) -> np.ndarray:
    """Figure 1: mean + sqrt(2 ln n / n_j), n plays so far of which n_j at this arm."""
    return means + np.sqrt(2 * np.log(n) / counts)


def tuned_values(means: np.ndarray, counts: np.ndarray, n: np.ndarray | float) -> np.ndarray:
    """Section 4: mean + sqrt(ln n / n_j min(1/4, V_j)); V_j is the variance of the rewards (mean - mean^2, as they are 0 or 1) and
    sqrt(2 ln n / n_j).
    """
    share = np.log(n) / counts
    return means + np.sqrt(share * np.minimum(0.25, means - means**2 + np.sqrt(2 * share)))


def exploration(n: int, arms: np.ndarray, gaps: np.ndarray, c: float) -> np.ndarray:
    """Figure 3: epsilon_n = min(1, c K / (d^2 n)). d is the gap to the second best arm, which this policy must be told."""
    return np.minimum(1, c * arms / (gaps**2 * n))


def play(policy: str, config: Config, rng: np.random.Generator, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """-> at each of the marks (plays, ascending) a row for each distribution: mean regret over runs, % of plays at the best arm.

    The regret is that of the arms' true means ("pseudo-regret"): without the noise of the rewards themselves.
    """
    sizes = np.array([len(arms) for arms in DISTRIBUTIONS.values()]).repeat(config.runs)
    most, count = int(sizes.max()), len(sizes)
    p = np.zeros((count, most))
    for row, arms in enumerate(DISTRIBUTIONS.values()):
        p[row * config.runs : (row + 1) * config.runs, : len(arms)] = arms
    missing = np.arange(most) >= sizes[:, None]  # distributions with fewer arms
    gaps, rows = p[:, :1] - p, np.arange(count)
    second = gaps[:, 1]
    counts, wins, regret = np.zeros((count, most)), np.zeros((count, most)), np.zeros(count)
    counts[missing] = 1
    at_marks, best = [], []
    for n in range(config.plays):
        # Play each arm once; here in an order of its own for each run
        values = np.where(counts == 0, np.inf, 0.0) if n < most else 0.0
        if n >= 2:
            known = np.maximum(counts, 1)
            means = wins / known
            if policy == "UCB1":
                values = values + ucb1_values(means, known, n)
            elif policy == "UCB1-tuned":
                values = values + tuned_values(means, known, n)
            else:
                values = values + means
        values = np.where(missing, -np.inf, values)
        # beyond the first plays exact ties are of arms with the same counts and wins
        chosen = largest(values, rng)
        if policy == "epsilon_n-greedy" and n > 0:
            explores = rng.random(count) < exploration(n, sizes, second, config.epsilon_c)
            chosen[explores] = rng.integers(sizes[explores])
        wins[rows, chosen] += rng.random(count) < p[rows, chosen]
        counts[rows, chosen] += 1
        regret += gaps[rows, chosen]
        if n + 1 == marks[len(at_marks)]:
            at_marks.append(regret.reshape(-1, config.runs).mean(axis=1))
            best.append(100 * counts[:, 0].reshape(-1, config.runs).mean(axis=1) / (n + 1))
            if len(at_marks) == len(marks):
                break
    return np.array(at_marks), np.array(best)


def experiment(config: Config, seed: int) -> Findings:
    c = config
    if c.plays < 100 or c.runs < 1 or not c.epsilon_c > 0:
        raise UserError(
            f"plays {c.plays}, runs {c.runs}, epsilon_c {c.epsilon_c:g}: allowed are 100 plays and 1 run or more, and an epsilon_c "
            "above 0"
        )
    marks = np.unique(np.geomspace(10, c.plays, 41).round().astype(int))
    measures, points = {}, []
    for number, policy in enumerate(POLICIES):
        regret, best = play(policy, c, np.random.default_rng((seed, number)), marks)
        key = policy.lower().replace("-", "_")
        for column, name in enumerate(DISTRIBUTIONS):
            measures[f"{key}_regret_{name}"] = float(regret[-1, column])
            measures[f"{key}_best_{name}"] = float(best[-1, column])
            points += [(f"regret_{name}", policy, int(n), float(regret[i, column])) for i, n in enumerate(marks)]  # fmt: skip
            points += [(f"best_{name}", policy, int(n), float(best[i, column])) for i, n in enumerate(marks)]
    for name, arms in DISTRIBUTIONS.items():
        points += [(f"regret_{name}", "Theorem 1's bound", int(n), bound(arms, n)) for n in marks]
        measures[f"bound_share_{name}"] = measures[f"ucb1_regret_{name}"] / bound(arms, c.plays)
        measures[f"tuned_share_{name}"] = measures[f"ucb1_tuned_regret_{name}"] / measures[f"ucb1_regret_{name}"]  # fmt: skip
    # the bound holds at every n, so at every mark too
    worst = max(
        dict(((f, n), y) for f, series, n, y in points if series == "UCB1")[f"regret_{name}", int(n)] / bound(arms, n)
        for name, arms in DISTRIBUTIONS.items() for n in marks
    )  # fmt: skip
    return Findings(measures | {"largest_bound_share": worst}, points)


if __name__ == "__main__":
    main("bandits", "ucb1", Config, experiment)
