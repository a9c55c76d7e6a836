"""What random play scores on the MuJoCo tasks: Table 1 measures every score from it, and no paper prints it.

Two kinds are measured: the initial policy (an untrained network's, with its noise of standard deviation 1; Section 6.1 speaks of "the
initial random policy") and actions drawn uniformly between the bounds. Each is the mean over 200 episodes, ten with each of twenty
networks or seeds; `random_policy.csv` beside this file holds them.

    ./run python -m replications.ppo.random_policy
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from common import papers
from common.environments.make import make_envs
from common.environments.vector import ReplayableEnvs
from common.errors import run_main
from common.say import say
from replications.ppo.rollout import evaluated
from replications.ppo.train import Config, make_network

FILE = Path(__file__).with_name("random_policy.csv")
NETWORKS, EPISODES = 20, 10  # EPISODES of each of NETWORKS
COLUMNS = ("paper", "game", "metric", "value", "stdev", "protocol", "source")
PROTOCOL, SOURCE = "mean_of_200_episodes", "measured here by replications/ppo/random_policy.py"


def returns_of(act: Callable[[np.ndarray], np.ndarray], envs: ReplayableEnvs) -> list[float]:
    """The return of the first episode of each environment under `act`: observations (N, ...) -> actions (N, A) float32."""
    observations, returns = envs.reset(), np.full(envs.num_envs, np.nan)
    while np.isnan(returns).any():
        step = envs.step(act(observations))
        observations = step.obs
        if step.done.any():
            returns = np.where(step.done & np.isnan(returns), step.scores, returns)
            observations = envs.reset_where(step.done)
    return returns.tolist()


def initial_policy(config: Config, envs: ReplayableEnvs, seed: int) -> Callable:
    """A network that has learned nothing, with its Gaussian noise; observations are filtered by the moments it starts with."""
    torch.manual_seed(seed)
    net, rng = make_network(config, envs), np.random.default_rng(seed)

    def act(observations: np.ndarray) -> np.ndarray:
        means, _ = evaluated(net, net.normalised(observations[:, None]), torch.device("cpu"))
        return (means + rng.standard_normal(means.shape)).astype(np.float32)

    return act


def uniform_actions(config: Config, envs: ReplayableEnvs, seed: int) -> Callable:
    """Actions between the environment's bounds, all equally likely."""
    rng = np.random.default_rng(seed)
    space = envs.envs[0].action_space
    return lambda observations: rng.uniform(
        space.low, space.high, (len(observations), *envs.action_shape)
    ).astype(np.float32)


KINDS = {"initial_policy": initial_policy, "uniform_actions": uniform_actions}


def measure(
    task: papers.Task, config: Config, networks: int = NETWORKS, episodes: int = EPISODES
) -> list[dict]:
    """One row of the table for each kind of random play."""
    rows = []
    for metric, policy in KINDS.items():
        returns = []
        for seed in range(networks):
            envs = make_envs(config, task, episodes, seed)
            returns += returns_of(policy(config, envs, seed), envs)
        values = f"{np.mean(returns):.6g}", f"{np.std(returns, ddof=1):.6g}"
        rows.append(dict(zip(COLUMNS, ("here", task.name, metric, *values, PROTOCOL, SOURCE), strict=True)))
    return rows


def main() -> None:
    paper = papers.load_paper("ppo")
    rows = []
    for name, task in paper.tasks.items():
        if task.kind == "gym" and task.in_paper:
            config = Config(**papers.resolve(paper, None, name, "paper").settings)
            rows += measure(task, config)
            say(" ".join([*(f"{row['metric']} {row['value']}" for row in rows[-2:]), name]))
    with FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run_main(main)
