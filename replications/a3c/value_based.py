"""The asynchronous methods that learn action values: 1-step Q, 1-step Sarsa and n-step Q. Their actor-learner is that of train.py.

A method is a function of the network theta', the target network theta-, a rollout and the Config. It returns the loss, summed over
the rollout's steps, and the parts that the learning curve shows: entropy, policy loss, value loss.
"""

from __future__ import annotations

import numpy as np
import torch

from replications.a3c.rollout import Rollout, n_step_returns

# The final epsilon of a worker, and how likely it is drawn; s. 8
FINAL_EXPLORATION = ((0.1, 0.4), (0.01, 0.3), (0.5, 0.3))

Losses = tuple[torch.Tensor, torch.Tensor]  # the loss, a scalar, and its parts (3,)


def one_step_q(network, target, r: Rollout, c) -> Losses:
    """Algorithm 1: y = r + discount max_a' Q(s', a'; theta-)."""
    with torch.no_grad():
        next_values = target(r.states[1:])[0].amax(dim=1)
    return q_loss(network, r, one_step_targets(r.rewards, next_values, r.terminal, c.discount))


def one_step_sarsa(network, target, r: Rollout, c) -> Losses:
    """Section 4: Algorithm 1 with y = r + discount Q(s', a'; theta-), a' the action that is taken in s'."""
    last = [] if r.terminal else [r.next_action]
    next_actions = torch.tensor([*r.actions[1:].tolist(), *(last or [0])])
    with torch.no_grad():
        next_values = target(r.states[1:])[0].gather(1, next_actions.unsqueeze(1)).squeeze(1)
    return q_loss(network, r, one_step_targets(r.rewards, next_values, r.terminal, c.discount))


def n_step_q(network, target, r: Rollout, c) -> Losses:
    """Algorithm S2: R = 0 for terminal s_t, max_a Q(s_t, a; theta-) otherwise."""
    with torch.no_grad():
        bootstrap = 0.0 if r.terminal else float(target(r.states[-1:])[0].max())
    return q_loss(network, r, n_step_returns(r.rewards, bootstrap, c.discount))


def one_step_targets(
    rewards: torch.Tensor, next_values: torch.Tensor, terminal: bool, discount: float
) -> torch.Tensor:
    """Algorithm 1: y = r for terminal s', r + discount times the value of s' otherwise; only the last s' can be terminal.

    rewards (T,), next_values (T,) -> (T,).
    """
    alive = torch.ones_like(rewards)
    alive[-1] = not terminal
    return rewards + discount * next_values * alive


def q_loss(network, r: Rollout, targets: torch.Tensor) -> Losses:
    """Algorithms 1 and S2: the sum of (target - Q(s, a; theta))^2, the error not clipped. targets: (n,)."""
    values = network(r.states[:-1])[0].gather(1, r.actions.unsqueeze(1)).squeeze(1)
    loss = (targets - values).square().sum()
    return loss, torch.stack([torch.zeros(()), torch.zeros(()), loss.detach()])


def exploration(step: int, final: float, config) -> float:
    """epsilon of a worker whose final one is `final`, at an agent step of all workers; value-based methods."""
    progress = min(step / config.final_exploration_step, 1.0)
    return config.initial_exploration + progress * (final - config.initial_exploration)


def draw_final_exploration(rng: np.random.Generator) -> float:
    epsilons, likely = zip(*FINAL_EXPLORATION, strict=True)
    return float(rng.choice(epsilons, p=likely))
