"""The agents of Sutton & Barto, chapter 2: epsilon-greedy, optimistic, by upper confidence bounds, and the gradient bandit.

Each plays `runs` problems side by side: arrays are (runs, arms).
"""

from __future__ import annotations

import numpy as np


def largest(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """argmax of each row of (runs, arms); ties at random."""
    is_best = values == values.max(axis=1, keepdims=True)
    chosen = is_best.argmax(axis=1)
    tied = np.flatnonzero(is_best.sum(axis=1) > 1)
    if len(tied):
        chosen[tied] = (is_best[tied] * rng.random((len(tied), values.shape[1]))).argmax(axis=1)
    return chosen


class ValueAgent:
    """Action values Q (runs, arms), and a choice that is epsilon-greedy, or by upper confidence bounds where `confidence` is given.

    step_size None: sample averages, 1/N with this reward counted.
    """

    def __init__(
        self, shape: tuple[int, int], *, epsilon: float = 0.0, initial: float = 0.0, step_size: float | None = None,
        confidence: float = 0.0,
    ):  # fmt: skip
        self.values, self.counts = np.full(shape, initial), np.zeros(shape)
        self.epsilon, self.step_size, self.confidence = epsilon, step_size, confidence
        self.rows = np.arange(shape[0])

    def choose(self, step: int, rng: np.random.Generator) -> np.ndarray:
        """step: from 1. -> (runs,) int"""
        values = self.values
        if self.confidence:  # S&B Equation 2.10; an arm with N = 0 is a maximal one
            with np.errstate(divide="ignore"):
                width = np.sqrt(np.log(step) / self.counts) if step > 1 else 0.0
            values = np.where(self.counts == 0, np.inf, values + self.confidence * width)
        chosen = largest(values, rng)
        if self.epsilon:  # uniform over all arms, the greedy one included
            explores = rng.random(len(chosen)) < self.epsilon
            chosen[explores] = rng.integers(values.shape[1], size=explores.sum())
        return chosen

    def learn(self, chosen: np.ndarray, rewards: np.ndarray) -> None:
        at = self.rows, chosen
        self.counts[at] += 1
        step_size = 1 / self.counts[at] if self.step_size is None else self.step_size
        self.values[at] += step_size * (rewards - self.values[at])


class GradientAgent:
    """Preferences H (runs, arms), chosen by their softmax; S&B Equation 2.12. The baseline is the mean of all rewards, this one's too."""

    def __init__(self, shape: tuple[int, int], *, step_size: float, baseline: bool = True):
        self.preferences, self.mean, self.count = np.zeros(shape), np.zeros(shape[0]), 0
        self.step_size, self.baseline, self.rows = step_size, baseline, np.arange(shape[0])

    def choose(self, step: int, rng: np.random.Generator) -> np.ndarray:
        shares = np.exp(self.preferences - self.preferences.max(axis=1, keepdims=True))
        self.policy = shares / shares.sum(axis=1, keepdims=True)
        below = self.policy.cumsum(axis=1) < rng.random((len(self.rows), 1))
        return np.minimum(below.sum(axis=1), self.policy.shape[1] - 1)

    def learn(self, chosen: np.ndarray, rewards: np.ndarray) -> None:
        self.count += 1
        self.mean += (rewards - self.mean) / self.count
        change = self.step_size * (rewards - (self.mean if self.baseline else 0.0))
        self.preferences -= change[:, None] * self.policy
        self.preferences[self.rows, chosen] += change


def play(
    problems: np.ndarray, agent: ValueAgent | GradientAgent, steps: int, rng: np.random.Generator, drift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """problems: q* (runs, arms), left as they are. -> means over runs of each step: reward, and % of runs at the best arm (steps,)."""
    q = problems.copy()
    rows, best = np.arange(len(q)), q.argmax(axis=1)
    reward, optimal = np.zeros(steps), np.zeros(steps)
    for t in range(steps):
        chosen = agent.choose(t + 1, rng)
        if drift:
            best = q.argmax(axis=1)
        rewards = q[rows, chosen] + rng.standard_normal(len(q))
        agent.learn(chosen, rewards)
        reward[t], optimal[t] = rewards.mean(), 100 * (chosen == best).mean()
        if drift:
            q += drift * rng.standard_normal(q.shape)
    return reward, optimal
