"""Episodes played by a policy: one environment for a number of steps, or one whole episode in each of several.

The papers' protocols on top of it: `common/evaluation/protocol.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from common.environments.atari import FrameStack
from common.evaluation.filming import ActionValues, listening

# states (N, stack, *obs_shape) and one random generator per environment -> actions (N,) int64
Policy = Callable[[np.ndarray, list[np.random.Generator]], np.ndarray]


@dataclass
class Episode:
    """One evaluation episode: its seed, raw score, length in agent steps, and, on request, its RGB screens with what the
    agent's network said of them.

    discounted_return: see `ReturnMeter`; None where the agent has no discount.
    """

    seed: int
    score: float
    length: int
    screens: list[np.ndarray] = field(default_factory=list, repr=False)
    discounted_return: float | None = None
    action_values: ActionValues | None = field(default=None, repr=False)

    def as_row(self) -> dict:
        row = {"seed": self.seed, "score": self.score, "length": self.length}
        return row if self.discounted_return is None else row | {"discounted_return": self.discounted_return}


class ReturnMeter:
    """What an agent's values estimate, measured in N environments: the discounted sum of the rewards that follow a state.

    Rewards are clipped where the agent learns from clipped ones, and the sum ends with a lost life where learning does.
    An episode's number is the mean over its states; rewards after a time cap are not known and count as zero.
    """

    def __init__(self, num_envs: int, config):
        # where rewards are normalised by moments, values are not of the rewards themselves
        self.discount = (
            None if getattr(config, "normalise_rewards", False) else getattr(config, "discount", None)
        )
        self.clip = getattr(config, "reward_clip", None) or None  # 0: not clipped
        self.lives_end = getattr(config, "life_loss_terminal", False)
        # A reward r after k states adds r (1 + discount + ... + discount^(k-1)) to the sum over these states
        self.weight, self.total = np.zeros(num_envs), np.zeros(num_envs)

    def add(self, step) -> None:
        if self.discount is not None:
            rewards = step.rewards if self.clip is None else step.rewards.clip(-self.clip, self.clip)
            self.weight = 1 + self.discount * self.weight
            self.total += self.weight * rewards
            self.weight[step.life_lost & self.lives_end] = 0

    def mean(self, env: int, length: int) -> float | None:
        """Of the first episode in an environment, when it has just ended."""
        return None if self.discount is None else float(self.total[env] / length)


def choose(policy: Policy, states: np.ndarray, epsilon: float, rngs: list, num_actions: int) -> np.ndarray:
    """The policy's actions, each replaced by a uniformly random one with probability epsilon."""
    actions = policy(states, rngs)
    for i, rng in enumerate(rngs):
        if rng.random() < epsilon:
            actions[i] = rng.integers(num_actions)
    return actions


def begin(policy: Policy, begins: np.ndarray) -> None:
    """Tells a policy with a memory of its own, a method `start`, that episodes begin in the masked environments (N,)."""
    if hasattr(policy, "start"):
        policy.start(begins)


def play_steps(
    policy: Policy, envs, stack: int, steps: int, epsilon: float, rng: np.random.Generator, check=lambda: None
) -> np.ndarray:
    """Plays `steps` agent steps in one environment; returns the raw scores of the episodes that ended, the last partial one
    dropped. `check` is called every hundred steps and may raise."""
    stacked = FrameStack.of(envs, stack)
    everyone = np.ones(1, dtype=bool)
    stacked.begin_episodes(envs.reset(), everyone)
    begin(policy, everyone)
    scores = []
    for t in range(steps):
        if t % 100 == 0:
            check()
        step = envs.step(choose(policy, stacked.planes, epsilon, [rng], envs.num_actions))
        stacked.push(step.obs)
        if step.done[0]:
            scores.append(step.scores[0])
            stacked.begin_episodes(envs.reset_where(everyone), everyone)
            begin(policy, everyone)
    return np.array(scores)


def play_group(
    policy: Policy, envs, stack: int, seeds: np.ndarray, epsilon: float, film: int | None = None, check=lambda: None,
    config=None,
) -> list[Episode]:  # fmt: skip
    """One whole episode in each of the N environments, with the given seeds (N,). film: whose screens to keep."""
    n = len(seeds)
    stacked = FrameStack.of(envs, stack)
    rngs = [np.random.default_rng(int(seed)) for seed in seeds]
    stacked.begin_episodes(envs.reset(seeds), np.ones(n, dtype=bool))
    begin(policy, np.ones(n, dtype=bool))
    episodes: list[Episode | None] = [None] * n
    screens: list[np.ndarray] = []
    action_values = ActionValues()
    returns = ReturnMeter(n, config)
    t = 0
    while any(e is None for e in episodes):
        if t % 100 == 0:
            check()
        filming = film is not None and episodes[film] is None
        if filming:
            screens.append(envs.screen(film))
        with listening(filming) as heard:
            actions = choose(policy, stacked.planes, epsilon, rngs, envs.num_actions)
        if heard:
            action_values.add(heard[0], film, envs.num_actions, actions[film])
        step = envs.step(actions)
        stacked.push(step.obs)
        returns.add(step)
        for i in np.flatnonzero(step.done):
            if episodes[i] is None:
                length = int(step.lengths[i])
                episodes[i] = Episode(
                    int(seeds[i]), float(step.scores[i]), length, discounted_return=returns.mean(i, length)
                )
        if step.done.any():  # those that have finished play on, unrecorded, so that the batch keeps its size
            stacked.begin_episodes(envs.reset_where(step.done), step.done)
            begin(policy, step.done)
        t += 1
    if film is not None:
        episodes[film].screens, episodes[film].action_values = screens, action_values
    return episodes
