"""What one worker saw between two updates, what a method makes of it, and the returns of several steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Rollout(NamedTuple):
    """n agent steps of one worker, s_0 to s_n.

    states: (n + 1, stack, *obs_shape). actions: (n,) int64. rewards: (n,) float32, clipped. terminal: s_n ends the episode, for
    learning. hidden, last_hidden: (2, 1, 256), the LSTM's state before s_0 and before s_n, or None. next_action: the action that
    1-step Sarsa has chosen in s_n, or None.
    """

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminal: bool
    hidden: torch.Tensor | None
    last_hidden: torch.Tensor | None
    next_action: int | None


Losses = tuple[
    torch.Tensor, torch.Tensor
]  # the loss, a scalar, and its parts: entropy, policy loss, value loss (3,)


class Method(NamedTuple):
    """One of the four asynchronous methods.

    loss: (network theta', target network theta-, rollout, Config) -> Losses, summed over the rollout's steps.
    actor_critic: the network has a policy and a value; else action values, epsilon and a target network.
    chooses_first: the action in the last state of a rollout is chosen before the update, which needs it.
    """

    loss: Callable[..., Losses]
    actor_critic: bool = False
    chooses_first: bool = False


def n_step_returns(rewards: torch.Tensor, bootstrap: float, discount: float) -> torch.Tensor:
    """Algorithms S2 and S3: R <- r_i + discount R, backwards from R = bootstrap (0 after a terminal state). (T,) -> (T,)."""
    returns = torch.empty_like(rewards)
    for i in reversed(range(len(rewards))):
        bootstrap = returns[i] = rewards[i] + discount * bootstrap
    return returns
