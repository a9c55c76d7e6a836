"""What PPO's networks say of a state: distributions of actions, categorical, or Gaussian for vectors of
floats (Section 6.1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch


class Heads(NamedTuple):
    """outputs: (B, A) logits, or means where `log_std` (A,) is given; values: (B,)."""

    outputs: torch.Tensor
    values: torch.Tensor
    log_std: torch.Tensor | None = None


def log_probs_and_entropy(heads: Heads, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of actions (B,) int64 or (B, A) float32: their log-probabilities (B,), and the mean entropy over the states, in nats.

    The log-probability of a vector is the sum over its dimensions.
    """
    if heads.log_std is None:
        logs = heads.outputs.log_softmax(dim=1)
        return logs.gather(1, actions.unsqueeze(1)).squeeze(1), -(logs.exp() * logs).sum(dim=1).mean()
    squares = ((actions - heads.outputs) * (-heads.log_std).exp()).square().sum(dim=1)
    log_stds, size = heads.log_std.sum(), len(heads.log_std)
    entropy = log_stds + size * 0.5 * math.log(2 * math.pi * math.e)
    return -0.5 * squares - (log_stds + size * 0.5 * math.log(2 * math.pi)), entropy


def divergence(old: Heads, new: Heads) -> torch.Tensor:
    """KL(old || new) in each state, (B,), in nats."""
    if new.log_std is None:
        old_logs = old.outputs.log_softmax(dim=1)
        return (old_logs.exp() * (old_logs - new.outputs.log_softmax(dim=1))).sum(dim=1)
    old_variance, variance = (2 * old.log_std).exp(), (2 * new.log_std).exp()
    terms = (old_variance + (old.outputs - new.outputs) ** 2) / (2 * variance) - 0.5
    return (terms + new.log_std - old.log_std).sum(dim=1)


def draw(rng: np.random.Generator, rows: tuple[int, ...], log_std: torch.Tensor | None) -> np.ndarray:
    """The chance in actions: uniform numbers (*rows,) float64, or Gaussian noise (*rows, A) of the policy's deviation."""
    if log_std is None:
        return rng.random(rows)
    return rng.standard_normal((*rows, len(log_std))) * log_std.exp().cpu().numpy()


def sample(outputs: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """One action per state. outputs (N, A), drawn by `draw`: with (N,) numbers below A, int64; with (N, A) vectors, float32."""
    if drawn.ndim == 2:
        return (outputs + drawn).astype(np.float32)
    sums = np.exp(outputs - outputs.max(axis=1, keepdims=True), dtype=np.float64).cumsum(axis=1)
    return (sums <= drawn[:, None] * sums[:, -1:]).sum(axis=1)
