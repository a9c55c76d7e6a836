"""What agents that learn action values have in common when they are looked at."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common.evaluation.protocol import Policy


def greedy(q: nn.Module, estimates: list[float] | None = None) -> Policy:
    """argmax_a Q(s, a) of states (N, stack, *obs_shape) -> (N,) int64; the evaluation protocol adds its epsilon.

    estimates: is given max_a Q(s, a) of each state.
    """
    device = next(q.parameters()).device

    @torch.no_grad()
    def policy(states: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        values = q(torch.from_numpy(states).to(device)).cpu().numpy()
        if estimates is not None:
            estimates.extend(values.max(axis=1).tolist())
        return values.argmax(axis=1)

    return policy


@torch.no_grad()
def mean_max_q(q: nn.Module, states: torch.Tensor) -> float:
    """The mean over states (N, stack, *obs_shape) of max_a Q(s, a)."""
    return float(torch.cat([q(part).amax(dim=1) for part in states.split(100)]).mean())
