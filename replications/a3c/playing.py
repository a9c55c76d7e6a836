"""How a network plays: sampling from its softmax, the LSTM's state, the policy that is evaluated."""

from __future__ import annotations

import numpy as np
import torch


def sample(logits: torch.Tensor, rngs: list[np.random.Generator]) -> np.ndarray:
    """One action from each row's softmax, with that row's generator. (N, A) -> (N,) int64."""
    outputs = logits.cpu().numpy()
    sums = np.exp(outputs - outputs.max(axis=1, keepdims=True), dtype=np.float64).cumsum(axis=1)
    drawn = np.array([rng.random() for rng in rngs])
    return (sums <= drawn[:, None] * sums[:, -1:]).sum(axis=1)


def zero_hidden(config, num_envs: int = 1) -> torch.Tensor | None:
    return torch.zeros(2, num_envs, 256) if config.lstm else None


class Player:
    """The policy of a network that is being evaluated, with the LSTM's state of each of its environments."""

    def __init__(self, network, config):
        self.network, self.config, self.device = network, config, next(network.parameters()).device
        self.hidden: torch.Tensor | None = None

    def start(self, begins: np.ndarray) -> None:
        """Episodes begin in the masked environments (N,): their LSTM's state is zero."""
        if self.config.lstm:
            if self.hidden is None or self.hidden.shape[1] != len(begins):
                self.hidden = zero_hidden(self.config, len(begins)).to(self.device)
            self.hidden[:, torch.from_numpy(begins)] = 0

    @torch.no_grad()
    def __call__(self, states: np.ndarray, rngs: list[np.random.Generator]) -> np.ndarray:
        outputs, _, self.hidden = self.network(torch.from_numpy(states).to(self.device), self.hidden)
        if self.network.value is not None:
            return sample(outputs, rngs)
        return outputs.argmax(dim=1).cpu().numpy()
