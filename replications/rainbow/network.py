"""Rainbow's network: DQN's convolutions, and on them two streams of noisy layers."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common.learning.layers import wide_linear


class NoisyLinear(nn.Module):
    """Equation 4: y = (mu + sigma f(e_out) f(e_in)^T) x + mu_b + sigma_b f(e_out), f(x) = sgn(x) sqrt|x|.

    Every call draws new noise, one for the whole batch; in `eval` mode there is none. The noisy matrix is not
    formed: (sigma f(e_out) f(e_in)^T) x = f(e_out) * (sigma (f(e_in) * x)).
    """

    def __init__(self, inputs: int, outputs: int, sigma: float):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma * bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, inputs) -> (B, outputs)."""
        y = wide_linear(x, self.weight, self.bias)
        if self.training:
            outputs, inputs = self.weight.shape
            noise = torch.randn(inputs + outputs, device=x.device)
            noise = noise.sign() * noise.abs().sqrt()
            y = y + noise[inputs:] * wide_linear(x * noise[:inputs], self.weight_sigma, self.bias_sigma)
        return y


class Screens(nn.Sequential):
    """Layers for screens: bytes become numbers from 0 to 1."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(states / 255)


class RainbowNetwork(nn.Module):
    """DQN's convolutions, then a value and an advantage stream of 512 units; "The Integrated Agent".

    config: a `Config` of train.py. Without its "dueling" there is one stream, without "noisy" the streams'
    layers are plain, without "distributional" each action has one number instead of 51.
    """

    def __init__(self, config, num_actions: int, obs_shape: tuple[int, ...]):
        super().__init__()
        if config.network == "mlp":  # for vector observations (CartPole); not in the paper
            inputs, features, hidden = config.stack * int(np.prod(obs_shape)), 128, 128
            self.torso = nn.Sequential(nn.Flatten(), nn.Linear(inputs, features), nn.ReLU())
        else:
            features, hidden = 3136, 512
            self.torso = Screens(
                nn.Conv2d(config.stack, 32, 8, stride=4), nn.ReLU(),
                nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
                nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(),
                nn.Flatten(),
            )  # fmt: skip
        self.num_actions, self.atoms = num_actions, config.atoms if config.distributional else 1
        z = torch.linspace(config.value_min, config.value_max, self.atoms)
        self.register_buffer("z", z if config.distributional else None, persistent=False)

        def linear(*sizes: int) -> nn.Module:
            return NoisyLinear(*sizes, config.noisy_sigma) if config.noisy else nn.Linear(*sizes)

        def stream(outputs: int) -> nn.Module:
            return nn.Sequential(linear(features, hidden), nn.ReLU(), linear(hidden, outputs))

        self.value = stream(self.atoms) if config.dueling else None
        self.advantage = stream(num_actions * self.atoms)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, stack, 84, 84) uint8 or (B, stack, ...) float32 -> action values (B, num_actions) float32."""
        return self.values(self.logits(states))

    def values(self, logits: torch.Tensor) -> torch.Tensor:
        """Q(s, a) = sum_i z_i p_i(s, a), p = softmax(logits). (B, num_actions, atoms) -> (B, num_actions)."""
        return logits.squeeze(2) if self.z is None else logits.softmax(dim=2) @ self.z

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """States as above -> (B, num_actions, atoms). For each atom: v_i + a_i(a) - mean_a' a_i(a')."""
        features = self.torso(states)
        advantage = self.advantage(features).unflatten(1, (self.num_actions, self.atoms))
        if self.value is None:
            return advantage
        return self.value(features).unsqueeze(1) + advantage - advantage.mean(dim=1, keepdim=True)
