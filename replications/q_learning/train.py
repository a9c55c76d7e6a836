"""Q-learning: Watkins, "Learning from Delayed Rewards", PhD thesis, Cambridge, 1989; Watkins & Dayan, "Q-learning", Machine Learning 8,
1992.

One number Q(x, a) for each state and action, nothing more: no network, no replay memory, no target network, no traces. DQN
(replications/dqn) is this with a network in the table's place.

`paper.yaml` beside this file lists every constant with its source. Not in this file: the environments (common/environments/vector.py),
the exact optimum that the curve is held against (exact.py), evaluation and checkpoints (common/evaluation, common/runs).

Units: an agent step is one decision and one update.

    ./run python -m replications.q_learning.train --task frozen_lake --seed 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from common.environments.make import make_envs
from common.evaluation.protocol import Policy
from common.runs.command_line import main
from common.runs.progress import Progress
from common.runs.run import Run
from replications.q_learning import exact

DEVICE = "cpu"  # a table has nothing to do on a GPU

# --- constants ---


@dataclass(frozen=True)
class Config:
    """The paper fixes none of these but the rule; the tasks of paper.yaml choose, and say so."""

    training_steps: int = 200_000  # agent steps
    stack: int = 1  # observations that make a state
    most_steps: int = (
        0  # agent steps after which an episode is cut where the environment has no limit; 0: none
    )

    discount: float = 0.99  # gamma, below 1; 1 where an absorbing goal is reached
    exponent: float = (
        0.6  # w of the step size (n + 1)^-w at the n-th visit of a pair; the theorem asks for 1/2 < w <= 1
    )
    constant_step: float = 0.0  # alpha; above 0, in place of (n + 1)^-w: outside the theorem

    initial_exploration: float = 1.0  # epsilon; any behaviour that tries everything for ever will do
    final_exploration: float = 0.1
    final_exploration_step: int = 100_000  # agent steps

    evaluation_period: int = 10_000  # agent steps between evaluation phases
    evaluation_steps: int = 1_000  # agent steps of a phase
    evaluation_epsilon: float = 0.0
    pictures: int = 40  # copies of the table over the training, for the page's drawing


CURVE = ("exact_return", "largest_error")

# --- the table ---


class Table(nn.Module):
    """q: (states, actions), 0 at the start. history: (pictures, states, actions), copies of it at `picture_steps`."""

    def __init__(self, states: int, actions: int, pictures: int):
        super().__init__()
        self.q = nn.Parameter(torch.zeros(states, actions, dtype=torch.float64), requires_grad=False)
        self.register_buffer("history", torch.zeros(pictures, states, actions))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """states: (B, 1), numbers -> action values (B, actions)."""
        return self.q[states.reshape(-1).long()]


def make_network(config: Config, envs) -> nn.Module:
    """The table of these environments."""
    return Table(int(envs.envs[0].observation_space.n), envs.num_actions, config.pictures)


def picture_steps(config: Config) -> list[int]:
    """Agent steps of the table's copies, close together at the beginning, where most happens; the last is the end."""
    return [round(config.training_steps * ((k + 1) / config.pictures) ** 2) for k in range(config.pictures)]


# --- learning rule ---


def exploration(step: int, config: Config) -> float:
    """epsilon at an agent step, linear from its initial to its final value."""
    progress = min(step / config.final_exploration_step, 1.0)
    return config.initial_exploration + progress * (config.final_exploration - config.initial_exploration)


def step_size(visits: int, config: Config) -> float:
    """alpha at the n-th visit of a pair, below 1: (n + 1)^-w, of infinite sum while that of its squares is finite; or the constant."""
    return config.constant_step or (visits + 1.0) ** -config.exponent


def q_target(reward: float, next_values: np.ndarray, ended: bool, discount: float) -> float:
    """r + gamma V(y), V(y) = max_b Q(y, b), and 0 where the episode has ended. A time limit is no end."""
    return reward + discount * (0.0 if ended else float(next_values.max()))


def largest_error(q: np.ndarray, optimal: np.ndarray, visits: np.ndarray) -> float:
    """max_x |max_a Q(x, a) - max_a Q*(x, a)| over the states that were visited, (S, A) each."""
    seen = visits.any(axis=1)
    return float(np.abs(q.max(axis=1) - optimal.max(axis=1))[seen].max())


def act(values: np.ndarray, epsilon: float, rng: np.random.Generator) -> int:
    """With probability epsilon a random action, otherwise the best one of (actions,), ties at random."""
    if rng.random() < epsilon:
        return int(rng.integers(len(values)))
    best = np.flatnonzero(values == values.max())
    return int(best[0] if len(best) == 1 else best[rng.integers(len(best))])


# --- training ---


def train(config: Config, run: Run) -> None:
    c, rng = config, np.random.default_rng(run.seed)
    envs = make_envs(c, run.task, 1, run.seed)
    table, model = make_network(c, envs), exact.gym_model(run.task.env_id)
    optimal, pictures = exact.value_iteration(model, c.discount), picture_steps(c)
    visits, at = torch.zeros(table.q.shape, dtype=torch.int64), torch.zeros((), dtype=torch.int64)
    error_sum = torch.zeros((), dtype=torch.float64)  # of |target - Q| since the last evaluation phase
    progress = Progress()
    if not run.resume(progress, rng=rng, envs=envs, table=table, visits=visits, at=at, error_sum=error_sum):
        at.fill_(int(envs.reset()[0]))
    q, n, state = table.q.numpy(), visits.numpy(), int(at)  # the same memory

    for _ in run.steps(progress):
        # In the n-th step: observe x, choose a by any rule that tries everything, receive r, observe y
        action = act(q[state], exploration(progress.agent_steps, c), rng)
        progress.advance(1)
        step = envs.step(np.array([action]))
        then, ended = int(step.obs[0]), bool(step.game_over[0])
        # Q(x, a) <- (1 - alpha) Q(x, a) + alpha (r + gamma V(y)); all other values stay
        n[state, action] += 1
        alpha = step_size(n[state, action], c)
        target = q_target(step.rewards[0], q[then], ended, c.discount)
        error_sum += abs(target - q[state, action])
        q[state, action] = (1 - alpha) * q[state, action] + alpha * target
        progress.updates += 1
        if step.done[0]:
            run.log_episodes(progress, step)
            then = int(envs.reset_where(step.done)[0])
        state = then
        at.fill_(state)

        if progress.agent_steps in pictures:
            table.history[[when == progress.agent_steps for when in pictures]] = table.q.float()
        if progress.times_due(c.evaluation_period):
            greedy = exact.greedy(q, 0.0)
            steps = envs.max_steps or c.most_steps
            run.evaluation_phase(
                progress, make_policy(table, c), table, None, error_sum,
                epsilon=exploration(progress.agent_steps, c),
                exact_return=exact.limited_return(model, greedy, steps), largest_error=largest_error(q, optimal, n),
            )  # fmt: skip

    run.finish(progress, table)


# --- evaluation and command line ---


def make_policy(table: nn.Module, config: Config) -> Policy:
    """What is evaluated: argmax_a Q(x, a), ties at random."""

    def policy(states: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        values = table(torch.from_numpy(states)).numpy()
        return np.array([act(row, 0.0, rng) for row, rng in zip(values, rngs, strict=True)])

    return policy


if __name__ == "__main__":
    main("q_learning", Config, train)
