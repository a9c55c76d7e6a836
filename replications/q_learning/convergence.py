"""The convergence theorem of Watkins & Dayan, "Q-learning", Machine Learning 8, 1992, as a measurement.

Q(x, a) goes to Q*(x, a) with probability 1 if rewards are bounded, every action is tried in every state again and again, and the step
sizes of each pair, counted by its own visits, sum to infinity while their squares do not. Measured is the largest error of all pairs
against updates: where the conditions hold, and where one of them is broken. `paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.q_learning.convergence --seed 1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main
from replications.q_learning import exact


@dataclass(frozen=True)
class Config:
    """The theorem has no experiment; all of these are ours."""

    updates: int = 60_000  # of the chain
    lake_updates: int = 200_000  # of FrozenLake
    runs: int = 50  # learners with each kind of step size
    success: float = 0.8  # probability that an action of the chain leads where it points
    discount: float = 0.8  # of the chain
    lake_discount: float = 0.99  # of FrozenLake
    noise: float = 1.0  # rewards of the chain are uniform within this around their mean
    constant: float = 0.1  # step size


class Outcomes(NamedTuple):
    """What can follow of a state and an action, (S, A, K) each: probability, next state, mean reward, whether the episode ends.

    optimal: Q* (S, A). counted: (S, A) bool, the pairs whose error counts. noise: half the width of the rewards' distribution.
    """

    probability: np.ndarray
    next_state: np.ndarray
    reward: np.ndarray
    ends: np.ndarray
    optimal: np.ndarray
    counted: np.ndarray
    noise: float


def chain(success: float, discount: float, noise: float) -> Outcomes:
    """Two states and two actions: action a leads to state a with probability `success`, else to the other; state s pays s.

    Q*(s, a) = s + discount (V(0) + [success if a = 1, else 1 - success]), V(0) = discount success / (1 - discount), V(1) = V(0) + 1:
    for success above 1/2 the way to state 1 is the best one, and V(s) = s + discount (V(0) + success).
    """
    probability = np.empty((2, 2, 2))
    probability[:, :, 0], probability[:, :, 1] = success, 1 - success
    next_state = np.broadcast_to(np.array([[0, 1], [1, 0]]), (2, 2, 2))
    reward = np.broadcast_to(np.arange(2.0)[:, None, None], (2, 2, 2))
    v0 = discount * success / (1 - discount)
    optimal = np.array(
        [[s + discount * (v0 + arrives) for arrives in (1 - success, success)] for s in range(2)]
    )
    everywhere = np.ones((2, 2), bool)
    return Outcomes(probability, next_state, reward, np.zeros((2, 2, 2), bool), optimal, everywhere, noise)


def frozen_lake(discount: float) -> Outcomes:
    """FrozenLake, 4x4 and slippery, by Gymnasium's own table; Q* by value iteration."""
    env = gymnasium.make("FrozenLake-v1").unwrapped
    table = np.array(
        [[env.P[s][a] for a in range(4)] for s in range(16) if len(env.P[s][0]) == 3], dtype=float
    )
    live = np.array([len(env.P[s][0]) == 3 for s in range(16)])  # not a hole, not the goal
    env.close()
    whole = np.zeros((16, 4, 3, 4))
    whole[live] = table
    whole[~live, :, 0] = (1, 0, 0, 1)
    optimal = exact.value_iteration(exact.gym_model("FrozenLake-v1"), discount)
    counted = np.tile(live[:, None], (1, 4))
    return Outcomes(whole[..., 0], whole[..., 1].astype(int), whole[..., 2], whole[..., 3] > 0, optimal, counted, 0.0)  # fmt: skip


# --- step sizes and behaviours ---

# (visits of this pair, this one included; updates so far, this one included) -> step size
StepSize = Callable[[np.ndarray, int], np.ndarray | float]


def power(exponent: float) -> StepSize:
    """(n + 1)^-exponent at the n-th visit, "n^-exponent" for short; the theorem asks for step sizes below 1. It holds for exponents above 1/2, up to 1."""
    return lambda visits, t: (visits + 1.0) ** -exponent


def over_all_pairs(visits: np.ndarray, t: int) -> float:
    """1 / (t + 1), "1 / t" for short, by updates of all pairs together: of a pair that is tried seldom, the step sizes have a finite sum."""
    return 1 / (t + 1)


def uniform(t: int, draws: np.ndarray, actions: int) -> np.ndarray:
    return (draws * actions).astype(int)


def seldom(t: int, draws: np.ndarray, actions: int) -> np.ndarray:
    """Action 0 with probability 1 / (2 sqrt(t)): for ever, and ever less."""
    return np.where(draws < 0.5 / np.sqrt(t), 0, 1)


def never(t: int, draws: np.ndarray, actions: int) -> np.ndarray:
    """Action 1, the better one in the chain, is never tried."""
    return np.zeros(len(draws), int)


def q_update(q: float | np.ndarray, reward: float, discount: float, next_value: float, alpha: float) -> float | np.ndarray:  # fmt: skip
    """Q_n(x, a) = (1 - alpha) Q_n-1(x, a) + alpha (r + discount V_n-1(y)); V = 0 where the episode has ended."""
    return (1 - alpha) * q + alpha * (reward + discount * next_value)


def errors(
    task: Outcomes, discount: float, step_size: StepSize, behaviour: Callable, runs: int, marks: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """-> at each of the marks (updates, ascending) the largest error of all pairs, mean over runs. Q begins at 0, states at 0."""
    states, actions = task.optimal.shape
    q, visits = np.zeros((runs, states, actions)), np.zeros((runs, states, actions))
    rows, state, found = np.arange(runs), np.zeros(runs, int), []
    upto = task.probability.cumsum(axis=2)
    upto[..., -1] = 1
    for t in range(1, int(marks[-1]) + 1):
        draws = rng.random((3, runs))
        action = behaviour(t, draws[0], actions)
        outcome = (draws[1][:, None] >= upto[state, action]).sum(axis=1)
        at = state, action, outcome
        then, over = task.next_state[at], task.ends[at]
        reward = task.reward[at] + task.noise * (2 * draws[2] - 1)
        pair = rows, state, action
        visits[pair] += 1
        next_value = q[rows, then].max(axis=1) * ~over
        q[pair] = q_update(q[pair], reward, discount, next_value, step_size(visits[pair], t))
        state = np.where(over, 0, then)
        if t == marks[len(found)]:
            found.append(float((np.abs(q - task.optimal) * task.counted).max(axis=(1, 2)).mean()))
    return np.array(found)


def slope(marks: np.ndarray, error: np.ndarray) -> float:
    """k in error ~ updates^k, by least squares over the last decade."""
    late = marks >= marks[-1] / 10
    return float(np.polyfit(np.log(marks[late]), np.log(error[late]), 1)[0])


def experiment(config: Config, seed: int) -> Findings:
    c = config
    if min(c.updates, c.lake_updates) < 100 or c.runs < 1:
        raise UserError(f"updates {c.updates}, lake_updates {c.lake_updates}, runs {c.runs}: allowed are 100 updates and 1 run or more")  # fmt: skip
    if not (0.5 < c.success < 1 and 0 <= c.discount < 1 and 0 <= c.lake_discount < 1 and 0 < c.constant < 1 and c.noise >= 0):  # fmt: skip
        raise UserError(
            "allowed are a success above 0.5 and below 1, discounts below 1, a constant step size above 0 and below 1, noise of 0 or more"
        )
    constant = f"constant {c.constant:g}"
    holds = {"1 / n": power(1.0), "n^-0.7": power(0.7), "n^-0.6": power(0.6)}
    learners = {
        "chain": {name: (rule, uniform) for name, rule in holds.items()}
        | {
            constant: (lambda visits, t: c.constant, uniform),
            "seldom, n^-0.7": (power(0.7), seldom),
            "seldom, 1 / t of all pairs": (over_all_pairs, seldom),
            "never, n^-0.7": (power(0.7), never),
        },
        "lake": {
            "n^-0.7": (power(0.7), uniform),
            "n^-0.6": (power(0.6), uniform),
            constant: (lambda visits, t: c.constant, uniform),
        },
    }
    tasks = {
        "chain": (chain(c.success, c.discount, c.noise), c.discount, c.updates),
        "lake": (frozen_lake(c.lake_discount), c.lake_discount, c.lake_updates),
    }
    keys = dict(zip(learners["chain"], ("harmonic", "power_07", "power_06", "constant", "seldom", "seldom_all_pairs", "never"), strict=True))  # fmt: skip
    m, points = {}, []
    for place, (name, (task, discount, updates)) in enumerate(tasks.items()):
        marks = np.unique(np.geomspace(10, updates, 41).round().astype(int))
        for number, (words, (rule, behaviour)) in enumerate(learners[name].items()):
            rng = np.random.default_rng((seed, place, number))
            error = errors(task, discount, rule, behaviour, c.runs, marks, rng)
            figure = name if behaviour is uniform else "behaviour"
            points += [(figure, words, int(t), float(e)) for t, e in zip(marks, error, strict=True)]
            m[f"{name}_{keys[words]}_error"] = float(error[-1])
            m[f"{name}_{keys[words]}_slope"] = slope(marks, error)
        m[f"{name}_constant_over_power"] = m[f"{name}_constant_error"] / m[f"{name}_power_06_error"]
    m["seldom_over_pairs"] = m["chain_seldom_all_pairs_error"] / m["chain_seldom_error"]
    return Findings(m, points)


if __name__ == "__main__":
    main("q_learning", "convergence", Config, experiment)
