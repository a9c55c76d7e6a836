"""Maximization bias: Sutton & Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, Example 6.7 and Figure 6.5; Double
Q-learning is van Hasselt's (2010).

From A, right ends the episode, and left leads to B, from which every action ends it with a reward from N(-0.1, 1). Left is wrong,
but the largest of several noisy estimates is above 0 for long, so Q-learning prefers it. Double Q-learning chooses with one
estimate and takes the value from another. `paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.q_learning.maximization_bias --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main
from replications.q_learning.cliff_walking import choose


@dataclass(frozen=True)
class Config:
    """Defaults are the book's, or fill-ins that paper.yaml names."""

    runs: int = 10_000  # Figure 6.5
    episodes: int = 300  # of the figure
    actions: int = 10  # in B; the book says many
    few_actions: int = 5  # drawn beside it
    many_actions: int = 100
    other_runs: int = 1_000  # with those two
    step_size: float = 0.1  # Figure 6.5
    epsilon: float = 0.1  # Figure 6.5
    mean: float = -0.1  # of the reward after B; Example 6.7
    deviation: float = 1.0  # its standard deviation; Example 6.7


LEFT = 0  # the other action in A is right


def double_target(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Q2(s', argmax_a Q1(s', a)), Equation 6.10 for an update of Q1: (rows, actions) each -> (rows,)."""
    return second[np.arange(len(first)), choose(first, 0.0, rng)]


def share_left(double: bool, actions: int, runs: int, config: Config, rng: np.random.Generator) -> np.ndarray:
    """-> (episodes,) % of runs that go left from A."""
    c = config
    tables = 2 if double else 1  # Q-learning has one table, Double Q-learning acts on the sum of two
    a, b = np.zeros((tables, runs, 2)), np.zeros((tables, runs, actions))
    share = np.zeros(c.episodes)
    for episode in range(c.episodes):
        action = choose(a.sum(axis=0), c.epsilon, rng)
        left = np.flatnonzero(action == LEFT)
        share[episode] = 100 * len(left) / runs
        # A's step: reward 0, on to B or to the end. A coin says which table learns.
        which = rng.integers(tables, size=runs)
        target = np.zeros(runs)
        if double:
            target[left] = double_target(b[which[left], left], b[1 - which[left], left], rng)
        else:
            target[left] = b[0, left].max(axis=1)
        a[which, np.arange(runs), action] += c.step_size * (target - a[which, np.arange(runs), action])
        # B's step: any action ends the episode
        action = choose(b[:, left].sum(axis=0), c.epsilon, rng)
        which = rng.integers(tables, size=len(left))
        reward = c.mean + c.deviation * rng.standard_normal(len(left))
        b[which, left, action] += c.step_size * (reward - b[which, left, action])
    return share


def experiment(config: Config, seed: int) -> Findings:
    c = config
    if min(c.actions, c.few_actions, c.many_actions) < 2 or min(c.runs, c.other_runs) < 1 or c.episodes < 10:
        raise UserError("allowed are 2 actions, 1 run and 10 episodes, or more of each")
    if not (0 < c.step_size <= 1 and 0 <= c.epsilon <= 1):
        raise UserError(
            f"step_size {c.step_size:g} and epsilon {c.epsilon:g}: allowed is up to 1, not below 0"
        )
    m, points = {}, []
    settings = ((c.actions, c.runs), (c.few_actions, c.other_runs), (c.many_actions, c.other_runs))
    for place, (actions, runs) in enumerate(settings):
        for number, name in enumerate(("Q-learning", "Double Q-learning")):
            share = share_left(number == 1, actions, runs, c, np.random.default_rng((seed, place, number)))
            figure = ("figure_6_5", "few", "many")[place]
            points += [
                (figure, name, e + 1, float(share[e])) for e in (*range(10), *range(14, c.episodes, 5))
            ]
            points += [(figure, "optimal", e, 50 * c.epsilon) for e in (1, c.episodes)] if number else []
            key = ("q", "double")[number] + ("", "_few", "_many")[place]
            m[f"{key}_mean"] = float(share.mean())
            m[f"{key}_peak"] = float(np.convolve(share, np.full(5, 0.2), "valid").max())
            m[f"{key}_late"], m[f"{key}_last"] = float(share[-100:].mean()), float(share[-10:].mean())
    m["mean_gap"] = m["q_mean"] - m["double_mean"]
    return Findings(m, points)


if __name__ == "__main__":
    main("q_learning", "maximization_bias", Config, experiment)
