"""Estimated values against observed returns, Figure 3 of Lillicrap et al., "Continuous control with deep reinforcement learning",
ICLR 2016.

An agent is trained on Pendulum by `train.py`; then it plays test episodes without noise, and in each state Q(s, mu(s)) is set
against the discounted return that followed. `paper.yaml` holds the constants and the claims that are checked.

    ./run python -m replications.ddpg.values --seed 1
"""

from __future__ import annotations

import signal
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import papers
from common.environments.make import make_envs
from common.environments.vector import ReplayableEnvs
from common.errors import UserError
from common.runs.command_line import prepare
from common.runs.estimate import Probe
from common.runs.laptop import Findings, main
from common.say import say
from replications.ddpg import train

TASK = "pendulum"
BINS = 20  # of returns, for the figure


@dataclass(frozen=True)
class Config:
    """Figure 3 has none of these."""

    training_steps: int = 50_000  # agent steps
    episodes: int = 20  # test episodes
    tail: int = 800  # agent steps played beyond an episode's end, so that its last returns are whole


class Training(Probe):
    """A training that leaves nothing but its networks."""

    def _announce(self, replay: Any) -> None:
        say(f"training on {TASK} for {self.settings['training_steps']:,} agent steps")


def trained(training_steps: int, seed: int) -> tuple[torch.nn.ModuleDict, papers.Resolved]:
    """The last networks of a training by `train.py`, and what it was."""
    never = {"training_steps": training_steps, "evaluation_period": training_steps + 1}
    resolved = papers.resolve("ddpg", None, TASK, "paper", never)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    prepare(seed, 1)
    with tempfile.TemporaryDirectory() as folder:
        run = Training(resolved, seed, device="cpu", threads=1, results=Path(folder))
        try:
            run.open()
            train.train(train.Config(**resolved.settings), run)
        finally:
            run.close()
            for number, handler in before.items():  # a training that is over must not swallow a signal
                signal.signal(number, handler)
    return run.parts["nets"], resolved


def returns_after(rewards: np.ndarray, discount: float) -> np.ndarray:
    """(T, N) rewards -> (T, N) the discounted sums from each step on."""
    returns, following = np.zeros_like(rewards), np.zeros(rewards.shape[1:])
    for t in reversed(range(len(rewards))):
        returns[t] = following = rewards[t] + discount * following
    return returns


@torch.no_grad()
def values_and_returns(
    nets: torch.nn.ModuleDict, envs: ReplayableEnvs, tail: int, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    """Q(s, mu(s)) and the return observed, of each state of one episode in each environment, (T N,) both.

    envs: of a task whose episodes only a time limit ends, T steps long; they are played `tail` steps longer.
    """
    act = train.make_policy(nets, train.Config())
    nets.eval()
    obs, values, rewards = envs.reset(), [], []
    for _ in range(envs.max_steps + tail):
        states = torch.from_numpy(obs).unsqueeze(1)
        values.append(nets.critic(states, nets.actor(states)).numpy())
        step = envs.step(act(states.numpy(), []))
        if step.game_over.any():
            raise UserError("an episode came to an end of its own: returns beyond it are not defined here")
        rewards.append(step.rewards)
        obs = step.obs
    returns = returns_after(np.stack(rewards), discount)
    return (np.concatenate(x[: envs.max_steps]).astype(np.float64) for x in (np.stack(values), returns))


def measures_of(values: np.ndarray, returns: np.ndarray) -> dict[str, float]:
    """Both (K,). Bias and error in standard deviations of the returns."""
    spread, errors = returns.std(), values - returns
    return {
        "correlation": float(np.corrcoef(values, returns)[0, 1]),
        "bias": float(errors.mean() / spread),
        "error": float(np.sqrt((errors**2).mean()) / spread),
        "mean_value": float(values.mean()),
        "mean_return": float(returns.mean()),
    }


def points_of(values: np.ndarray, returns: np.ndarray) -> list[tuple[str, str, float, float]]:
    """The mean value over returns alike, in bins of fixed places, and the line on which both are equal."""
    edges = np.linspace(-400, 0, BINS + 1)  # a swing-up from anywhere lies in between
    points = []
    for low, high in pairwise(edges):
        here = (returns >= low) & (returns < high)
        middle = (low + high) / 2
        points.append(("figure_3", "equal", middle, middle))
        if here.any():
            points.append(("figure_3", "Q(s, mu(s))", middle, float(values[here].mean())))
    return points


def experiment(config: Config, seed: int) -> Findings:
    c = config
    nets, resolved = trained(c.training_steps, seed)
    envs = make_envs(train.Config(**resolved.settings), resolved.task, c.episodes, 1_000_000 + seed)
    values, returns = values_and_returns(nets, envs, c.tail, resolved.settings["discount"])
    return Findings(measures_of(values, returns), points_of(values, returns))


if __name__ == "__main__":
    main("ddpg", "values", Config, experiment)
