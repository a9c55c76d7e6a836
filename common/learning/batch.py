"""What an update is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Batch:
    """B transitions on the learner's device.

    states, next_states: (B, stack, *obs_shape) in the memory's dtype; next_states of a terminal transition are meaningless.
    actions: (B,) int64, or (B, *action_shape) float32; rewards: (B,) float32; terminals: (B,) bool, True where nothing may be
    bootstrapped.
    indices: (B, 2) int64 numpy, environment and slot, as `Replay.gather` takes them.
    steps: None; with `n_step` (B,) int64, the agent steps k <= n from states to next_states. Then rewards are (B, n), zero from the
    k-th on, and terminals say whether the k-th step ended in a terminal.
    """

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_states: torch.Tensor
    terminals: torch.Tensor
    indices: np.ndarray | None = None
    steps: torch.Tensor | None = None
