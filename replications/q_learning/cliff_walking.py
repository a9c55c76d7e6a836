"""Cliff walking: Sutton & Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, Example 6.6 and Figure 6.3.

Q-learning learns the shortest way, along the cliff, and falls off it while it explores; Sarsa learns what its own exploring costs
and takes the way around; Expected Sarsa does so with any step size. All learners walk side by side, each through its own episodes.
`paper.yaml` holds constants, fill-ins and claims.

    ./run python -m replications.q_learning.cliff_walking --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from common.errors import UserError
from common.runs.laptop import Findings, main
from replications.q_learning import exact

ROWS, COLUMNS = 4, 12
START, GOAL = 36, 47  # lower left, lower right; the cliff is between them
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
STEP_SIZES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)  # Figure 6.3
RULES = ("Sarsa", "Q-learning", "Expected Sarsa")
Rule = Literal["Sarsa", "Q-learning", "Expected Sarsa"]


@dataclass(frozen=True)
class Config:
    """Defaults are the book's, or fill-ins that paper.yaml names."""

    epsilon: float = 0.1  # Example 6.6
    step_size: float = 0.5  # of the example's figure; not stated in the book
    episodes: int = 500  # of the example's figure
    runs: int = 50  # learners of each kind; not stated for the example
    interim_episodes: int = 100  # Figure 6.3
    asymptotic_episodes: int = 3_000  # Figure 6.3; the book has 100,000
    asymptotic_skipped: int = (
        1_000  # first ones, left out of the asymptotic mean; the book leaves out none of its 100,000
    )
    asymptotic_runs: int = 10  # Figure 6.3


@cache
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """next_state, reward, ends: (48, 4). Each step costs 1; one into the cliff costs 100 and leads to the start."""
    next_state, reward = np.zeros((48, 4), int), np.full((48, 4), -1.0)
    for state in range(48):
        for action, (down, right) in enumerate(MOVES):
            row = min(max(state // COLUMNS + down, 0), ROWS - 1)
            column = min(max(state % COLUMNS + right, 0), COLUMNS - 1)
            cell = row * COLUMNS + column
            if START < cell < GOAL:
                cell, reward[state, action] = START, -100.0
            next_state[state, action] = cell
    return next_state, reward, next_state == GOAL


@cache
def model() -> exact.Model:
    """The same, for dynamic programming."""
    next_state, reward, ends = world()
    return exact.Model(
        np.eye(48)[next_state] * ~ends[:, :, None],
        reward * (np.arange(48) != GOAL)[:, None],
        np.eye(48)[START],
    )


def choose(values: np.ndarray, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """Epsilon-greedy actions of (rows, actions), ties at random -> (rows,) int."""
    draws = rng.random(values.shape)
    chosen = (draws * (values == values.max(axis=1, keepdims=True))).argmax(axis=1)
    explores = rng.random(len(values)) < epsilon
    return np.where(explores, draws.argmax(axis=1), chosen)


def next_value(rule: Rule, values: np.ndarray, actions: np.ndarray, epsilon: float) -> np.ndarray:
    """What stands for the value of the next state, from its action values (rows, 4) -> (rows,).

    Sarsa: that of the action that will be taken (Equation 6.7); Q-learning: the largest (6.8); Expected Sarsa: the mean under the
    epsilon-greedy policy (6.9).
    """
    if rule == "Sarsa":
        return values[np.arange(len(values)), actions]
    largest = values.max(axis=1)
    return largest if rule == "Q-learning" else (1 - epsilon) * largest + epsilon * values.mean(axis=1)


def learn(
    rule: Rule, step_sizes: np.ndarray, episodes: int, epsilon: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """One learner for each of the step sizes (rows,) -> returns (rows, episodes) and Q (rows, 48, 4).

    No episode is cut short. A learner that has done its episodes stops; the others go on.
    """
    next_state, reward, ends = world()
    q, returns = np.zeros((len(step_sizes), 48, 4)), np.zeros((len(step_sizes), episodes))
    rows = np.arange(len(step_sizes))  # those that still learn
    state, episode = np.full(len(rows), START), np.zeros(len(rows), int)
    action = choose(q[rows, state], epsilon, rng)
    while len(rows):
        r, then, over = reward[state, action], next_state[state, action], ends[state, action]
        returns[rows, episode] += r
        values = q[rows, then]
        then_action = choose(values, epsilon, rng)  # before the update; Sarsa keeps to it
        target = r + next_value(rule, values, then_action, epsilon) * ~over
        q[rows, state, action] += step_sizes[rows] * (target - q[rows, state, action])
        if over.any():
            then[over], episode = START, episode + over
            if (episode == episodes).any():
                going = episode < episodes
                rows, then, episode, then_action, over = (
                    a[going] for a in (rows, then, episode, then_action, over)
                )
        fresh = over if rule == "Sarsa" else np.ones(len(rows), bool)
        action = then_action
        if fresh.any():  # Q-learning and Expected Sarsa choose after the update
            action[fresh] = choose(q[rows[fresh], then[fresh]], epsilon, rng)
        state = then
    return returns, q


def greedy_return(q: np.ndarray, rng: np.random.Generator, longest: int = 100) -> np.ndarray:
    """The return of the greedy policy of each Q (rows, 48, 4), from the start; -inf where it does not arrive."""
    next_state, reward, _ = world()
    state, found = np.full(len(q), START), np.zeros(len(q))
    for _ in range(longest):
        action = choose(q[np.arange(len(q)), state], 0.0, rng)
        found += np.where(state == GOAL, 0.0, reward[state, action])
        state = np.where(state == GOAL, GOAL, next_state[state, action])
    return np.where(state == GOAL, found, -np.inf)


def limits(epsilon: float) -> dict[str, float]:
    """Exact: the return of the greedy policy of Q* made epsilon-soft (Q-learning's), of the best epsilon-soft policy (Expected Sarsa's)."""
    m = model()
    return {
        rule: exact.expected_return(m, exact.soft(exact.greedy(exact.value_iteration(m, 1.0, e)), epsilon))
        for rule, e in (("Q-learning", 0.0), ("Expected Sarsa", epsilon))
    }


def experiment(config: Config, seed: int) -> Findings:
    c = config
    skipped = min(100, c.episodes // 2)
    if not (0 < c.epsilon < 1 and 0 < c.step_size <= 1 and min(c.runs, c.asymptotic_runs, c.interim_episodes) >= 1 and c.episodes >= 20
            and 0 <= c.asymptotic_skipped < c.asymptotic_episodes):  # fmt: skip
        raise UserError(
            "allowed are an epsilon above 0 and below 1, a step_size above 0 and up to 1, runs and episodes of 1 or more (episodes: 20), "
            "and fewer asymptotic_skipped than asymptotic_episodes"
        )
    m, points, interim, asymptotic = {}, [], {}, {}
    exactly = limits(c.epsilon)
    for number, rule in enumerate(RULES):
        rng, key = np.random.default_rng((seed, number)), rule.lower().replace("-", "_").replace(" ", "_")
        returns, q = learn(rule, np.full(c.runs, c.step_size), c.episodes, c.epsilon, rng)
        m[f"{key}_late"] = float(returns[:, skipped:].mean())
        m[f"{key}_shortest"] = float((greedy_return(q, rng) == -13).mean())
        blocks = returns[:, : c.episodes // 10 * 10].mean(axis=0).reshape(-1, 10).mean(axis=1)
        points += [("example_6_6", rule, 10 * i + 5, float(y)) for i, y in enumerate(blocks)]
        if rule in exactly:
            points += [("example_6_6", f"{rule}, exact limit", x, exactly[rule]) for x in (5, c.episodes - 5)]

        sizes = np.repeat(STEP_SIZES, c.runs)
        returns, _ = learn(rule, sizes, c.interim_episodes, c.epsilon, rng)
        interim[rule] = returns.mean(axis=1).reshape(len(STEP_SIZES), -1).mean(axis=1)
        # Sarsa's episodes become very long with large step sizes
        few = np.array([a for a in STEP_SIZES if rule != "Sarsa" or a <= 0.7])
        returns, _ = learn(rule, np.repeat(few, c.asymptotic_runs), c.asymptotic_episodes, c.epsilon, rng)
        late = returns[:, c.asymptotic_skipped :].mean(axis=1)
        asymptotic[rule] = late.reshape(len(few), -1).mean(axis=1)
        for name, alphas, ys in (
            ("interim", STEP_SIZES, interim[rule]),
            ("asymptotic", few, asymptotic[rule]),
        ):
            points += [
                ("figure_6_3", f"{rule}, {name}", a, float(y)) for a, y in zip(alphas, ys, strict=True)
            ]
            m |= {f"{name}_{key}_{round(100 * a):03d}": float(y) for a, y in zip(alphas, ys, strict=True)}
        if rule in exactly:
            m[f"asymptotic_{key}_from_exact"] = float(asymptotic[rule].mean() - exactly[rule])
            m[f"asymptotic_{key}_slope"] = float(np.polyfit(few, asymptotic[rule], 1)[0])
    m["sarsa_less_q_learning"] = m["sarsa_late"] - m["q_learning_late"]
    sarsa, q_learning, expected = (interim[rule] for rule in RULES)
    m["interim_sarsa_less_q_learning"] = float((sarsa - q_learning)[:3].min())
    m["interim_expected_less_sarsa"] = float((expected - sarsa)[1:].min())
    m["interim_expected_large_is_best"] = float(expected[-2:].max() - expected[:-2].max())
    m["asymptotic_sarsa_fall"] = float(-np.diff(asymptotic["Sarsa"]).max())
    return Findings(m, points)


if __name__ == "__main__":
    main("q_learning", "cliff_walking", Config, experiment)
