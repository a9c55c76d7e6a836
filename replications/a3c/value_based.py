"""The asynchronous methods that learn action values: 1-step Q, 1-step Sarsa and n-step Q. Their actor-learner is that of train.py.

A method is a function of the network theta', the target network theta-, a rollout and the Config. It returns the loss, summed over
the rollout's steps, and the parts that the learning curve shows: entropy, policy loss, value loss.
"""

from __future__ import annotations

import numpy as np
import torch

from replications.a3c.rollout import Losses, Method, Rollout, n_step_returns

# Final epsilons, and how likely a worker draws each; s. 8
FINAL_EXPLORATION = ((0.1, 0.4), (0.01, 0.3), (0.5, 0.3))


def one_step_q(network, target, r: Rollout, c) -> Losses:
    """Algorithm 1: y = r + discount max_a' Q(s', a'; theta-)."""
    with torch.no_grad():
        next_values = target(r.states[1:])[0].amax(dim=1)
    return q_loss(network, r, one_step_targets(r.rewards, next_values, r.terminal, c.discount), c)


def one_step_sarsa(network, target, r: Rollout, c) -> Losses:
    """Section 4: Algorithm 1 with y = r + discount Q(s', a'; theta-), a' the action that is taken in s'."""
    last = 0 if r.terminal else r.next_action  # of a terminal state the value does not count
    next_actions = torch.cat([r.actions[1:], torch.tensor([last])])
    with torch.no_grad():
        next_values = target(r.states[1:])[0].gather(1, next_actions.unsqueeze(1)).squeeze(1)
    return q_loss(network, r, one_step_targets(r.rewards, next_values, r.terminal, c.discount), c)


def n_step_q(network, target, r: Rollout, c) -> Losses:
    """Algorithm S2: R = 0 for terminal s_t, max_a Q(s_t, a; theta-) otherwise."""
    with torch.no_grad():
        bootstrap = 0.0 if r.terminal else float(target(r.states[-1:])[0].max())
    return q_loss(network, r, n_step_returns(r.rewards, bootstrap, c.discount), c)


def one_step_targets(
    rewards: torch.Tensor, next_values: torch.Tensor, terminal: bool, discount: float
) -> torch.Tensor:
    """Algorithm 1: y = r for terminal s', r + discount times the value of s' otherwise; only the last s' can be terminal.

    rewards (T,), next_values (T,) -> (T,).
    """
    alive = torch.ones_like(rewards)
    alive[-1] = not terminal
    return rewards + discount * next_values * alive


def q_loss(network, r: Rollout, targets: torch.Tensor, c) -> Losses:
    """Algorithms 1 and S2: the squared errors of Q(s, a; theta'), summed, the error not clipped. targets: (n,).

    The gradient of each is q_gradient (Q - target): 1 as in public code, where the printed d(target - Q)^2 would be 2.
    """
    values = network(r.states[:-1])[0].gather(1, r.actions.unsqueeze(1)).squeeze(1)
    loss = c.q_gradient / 2 * (targets - values).square().sum()
    return loss, torch.stack([torch.zeros(()), torch.zeros(()), loss.detach()])


METHODS = {
    "one_step_q": Method(one_step_q),
    "one_step_sarsa": Method(one_step_sarsa, chooses_first=True),
    "n_step_q": Method(n_step_q),
}


def exploration(step: int, final: float, config) -> float:
    """epsilon of a worker whose final one is `final`, at an agent step of all workers."""
    progress = min(step / config.final_exploration_step, 1.0)
    return config.initial_exploration + progress * (final - config.initial_exploration)


def draw_final_exploration(rng: np.random.Generator) -> float:
    """s. 4: epsilon is sampled periodically by each worker; here when it begins a game."""
    epsilons, likely = zip(*FINAL_EXPLORATION, strict=True)
    return float(rng.choice(epsilons, p=likely))
