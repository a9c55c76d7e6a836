"""The replay memory's copy on a GPU, out of which batches are made without waiting for the host.

Every array of the memory that a batch is made of has a copy here, flat over environments and slots; what is written to the memory
is brought over at once. `gather` is tensor operations only, so that it can be part of a CUDA graph (`common/learning/cuda_graphs.py`).
A test compares its batches with those that `Replay` makes on a CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common.learning.batch import Batch

ARRAYS = ("actions", "rewards", "terminals", "complete", "age", "frames")


class ReplayOnDevice:
    """A copy of a `Replay` on `device`. Places are flat: environment * slots + slot, (B,) int64 on the device."""

    def __init__(self, replay: Any, device: torch.device | str):
        self.replay, self.device = replay, torch.device(device)
        self.slots, self.n_step = replay.slots, replay.n_step
        self.envs = torch.arange(replay.num_envs, device=self.device) * self.slots
        self.lags = torch.arange(
            -(replay.stack - 1), 2, device=self.device
        )  # stack and successor, relative to a place
        self.ahead = torch.arange(replay.n_step or 1, device=self.device)
        flat_indices = replay.num_envs * replay.slots
        self.there = {
            name: torch.from_numpy(
                np.zeros((flat_indices, *getattr(replay, name).shape[2:]), getattr(replay, name).dtype)
            ).to(self.device)
            for name in ARRAYS
        }

    def write(self, names: tuple[str, ...], envs: np.ndarray, slot: np.ndarray) -> None:
        """Brings over what the memory now holds at (environment, slot)."""
        flat_indices = self._send(envs * self.slots + slot)
        for name in names:
            self.there[name].index_copy_(0, flat_indices, self._send(getattr(self.replay, name)[envs, slot]))

    def load(self) -> None:
        """Brings over everything."""
        for name, there in self.there.items():
            array = getattr(self.replay, name).reshape(len(there), *there.shape[1:])
            for start in range(0, len(there), 65_536):
                there[start : start + 65_536] = self._send(array[start : start + 65_536])

    def flat_indices(self, indices: np.ndarray) -> torch.Tensor:
        """(B, 2) indices (environment, slot) of the memory -> (B,) flat_indices."""
        return self._send(indices[:, 0] * self.slots + indices[:, 1])

    def current(self, newest: np.ndarray) -> torch.Tensor:
        """(N, stack, *obs_shape): the states that end with each environment's newest slot, (N,)."""
        return self._stacked(self.envs + self._send(newest), self.lags[:-1])

    def gather(self, flat_indices: torch.Tensor) -> Batch:
        """The transitions at (B,) flat_indices; their `indices` are None."""
        there = self.there
        if self.n_step is None:
            frames = self._stacked(flat_indices, self.lags)
            return Batch(
                states=frames[:, :-1],
                actions=self._actions_at(flat_indices),
                rewards=there["rewards"][flat_indices],
                next_states=frames[:, 1:],
                terminals=there["terminals"][flat_indices],
            )
        ahead = self._around(flat_indices, self.ahead)
        terminal, complete = there["terminals"][ahead], there["complete"][ahead]
        # A step counts if it was taken (the last observation of an episode has none) and no terminal came before it
        earlier = (terminal & complete).cumsum(dim=1) - (terminal & complete).long()
        counts = (complete.cumsum(dim=1) == self.ahead + 1) & (earlier == 0)
        steps = counts.sum(dim=1)
        return Batch(
            states=self._stacked(flat_indices, self.lags[:-1]),
            actions=self._actions_at(flat_indices),
            rewards=there["rewards"][ahead] * counts,
            next_states=self._stacked(
                self._around(flat_indices, steps.unsqueeze(1)).squeeze(1), self.lags[:-1]
            ),
            terminals=terminal.gather(1, steps.unsqueeze(1) - 1).squeeze(1),
            steps=steps,
        )

    def _actions_at(self, flat_indices: torch.Tensor) -> torch.Tensor:
        """(B,) int64, or (B, *action_shape) float32."""
        actions = self.there["actions"][flat_indices]
        return actions if actions.dim() > 1 else actions.long()

    def _around(self, flat_indices: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
        """Places (B,) and lags (K,) or (B, K) in slots -> (B, K) flat_indices in the same environment's ring."""
        slot = flat_indices.unsqueeze(1) % self.slots
        return flat_indices.unsqueeze(1) - slot + (slot + lags) % self.slots

    def _stacked(self, flat_indices: torch.Tensor, lags: torch.Tensor) -> torch.Tensor:
        """Frames around flat_indices, (B, len(lags), *obs_shape), zero where a lag reaches before the episode's start."""
        around = self._around(flat_indices, lags)
        frames = self.there["frames"].index_select(0, around.flatten()).unflatten(0, around.shape)
        before_start = -lags > self.there["age"][flat_indices].unsqueeze(1)
        return frames.masked_fill_(before_start.reshape(*around.shape, *[1] * (frames.dim() - 2)), 0)

    def _send(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device, non_blocking=True)
