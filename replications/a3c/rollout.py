"""What one worker saw between two updates, and what the methods with several steps make of it."""

from __future__ import annotations

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


def n_step_returns(rewards: torch.Tensor, bootstrap: float, discount: float) -> torch.Tensor:
    """Algorithms S2 and S3: R <- r_i + discount R, backwards from R = bootstrap (0 after a terminal state). (T,) -> (T,)."""
    returns = torch.empty_like(rewards)
    for i in reversed(range(len(rewards))):
        bootstrap = returns[i] = rewards[i] + discount * bootstrap
    return returns
