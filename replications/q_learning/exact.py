"""What dynamic programming says exactly of a small task: optimal values, and what a policy earns.

A model is (transitions (S, A, S) of probabilities, rewards (S, A) expected). Where an episode ends there is no further probability.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import gymnasium
import numpy as np


class Model(NamedTuple):
    """transitions: (S, A, S) float64, rows that sum to 1 less the probability that the episode ends. rewards: (S, A).

    starts: (S,) the probability that an episode begins in a state.
    """

    transitions: np.ndarray
    rewards: np.ndarray
    starts: np.ndarray


@lru_cache(maxsize=8)
def gym_model(env_id: str) -> Model:
    """From Gymnasium's own table `P` of a toy-text task. Its entries after the end of an episode count for nothing."""
    env = gymnasium.make(env_id).unwrapped
    states, actions = env.observation_space.n, env.action_space.n
    transitions, rewards = np.zeros((states, actions, states)), np.zeros((states, actions))
    for state, of_state in env.P.items():
        for action, outcomes in of_state.items():
            for probability, next_state, reward, ends in outcomes:
                rewards[state, action] += probability * reward
                if not ends:
                    transitions[state, action, next_state] += probability
    starts = np.array(env.initial_state_distrib, dtype=float)
    env.close()
    return Model(transitions, rewards, starts)


def action_values(model: Model, values: np.ndarray, discount: float) -> np.ndarray:
    """r(s, a) + discount sum_s' p(s' | s, a) V(s'): (S,) -> (S, A)."""
    return model.rewards + discount * model.transitions @ values


def value_iteration(model: Model, discount: float, epsilon: float = 0.0, tolerance: float = 1e-12) -> np.ndarray:  # fmt: skip
    """Q (S, A) of the best policy; with epsilon, of the best one that explores with that probability."""
    q = np.zeros_like(model.rewards)
    while True:
        values = (1 - epsilon) * q.max(axis=1) + epsilon * q.mean(axis=1)
        new = action_values(model, values, discount)
        if np.abs(new - q).max() < tolerance:
            return new
        q = new


def greedy(q: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """(S, A) probabilities of the greedy policy, ties shared."""
    best = q >= q.max(axis=1, keepdims=True) - tolerance
    return best / best.sum(axis=1, keepdims=True)


def soft(policy: np.ndarray, epsilon: float) -> np.ndarray:
    """The policy, replaced by a uniformly random action with probability epsilon."""
    return (1 - epsilon) * policy + epsilon / policy.shape[1]


def expected_return(model: Model, policy: np.ndarray) -> float:
    """The undiscounted return of a policy (S, A) that ends with probability 1, from the starts."""
    moves = np.einsum("sa,sat->st", policy, model.transitions)
    values = np.linalg.solve(np.eye(len(moves)) - moves, (policy * model.rewards).sum(axis=1))
    return float(model.starts @ values)


def limited_return(model: Model, policy: np.ndarray, steps: int) -> float:
    """The undiscounted return of a policy (S, A) within a time limit, from the starts."""
    moves = np.einsum("sa,sat->st", policy, model.transitions)
    rewards, values = (policy * model.rewards).sum(axis=1), np.zeros(len(moves))
    for _ in range(steps):
        values = rewards + moves @ values
    return float(model.starts @ values)
