"""PPO's side of control tasks: two small networks, and the running moments of the released codes.

Schulman et al. 2017, Section 6.1. "First release" is OpenAI baselines' pposgd of July 2017 (later called ppo1), the code of the
paper's date; "ppo2" is its successor.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from replications.ppo.policies import Heads


class Pair(nn.Module):
    """Two linear layers side by side, the policy's and the value's, in one product: (2, B, inputs) -> (2, B, outputs)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(2, 1, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class ControlNetwork(nn.Module):
    """Two layers of 64 tanh units, policy and value apart; a standard deviation that does not depend on the state.

    Observations are normalised by `mean` and `std`, which are saved with the weights.
    continuous: actions are vectors of floats; otherwise there is no `log_std` (CartPole).
    observation_clip: bound of the normalised observations, in standard deviations; 0: they are not normalised.
    """

    def __init__(self, num_actions: int, inputs: int, continuous: bool, observation_clip: float = 0.0):
        super().__init__()
        self.hidden = nn.ModuleList([Pair(inputs, 64), Pair(64, 64)])
        self.policy, self.value = nn.Linear(64, num_actions), nn.Linear(64, 1)
        self.log_std = nn.Parameter(torch.zeros(num_actions)) if continuous else None
        self.observation_clip = observation_clip
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))

    def normalised(self, planes: np.ndarray) -> np.ndarray:
        """(B, stack, *obs_shape) float32 -> (B, inputs) float32: what `forward` is given."""
        return normaliser(self)(planes)

    def forward(self, states: torch.Tensor) -> Heads:
        """states: (B, inputs), normalised."""
        first, second = self.hidden
        for_policy, for_value = second(first(states.expand(2, -1, -1)).tanh()).tanh()
        return Heads(self.policy(for_policy), self.value(for_value).squeeze(1), self.log_std)


def normaliser(net: ControlNetwork) -> Callable[[np.ndarray], np.ndarray]:
    """`net.normalised` with the moments of now."""
    bound, mean, std = net.observation_clip, net.mean.cpu().numpy(), net.std.cpu().numpy()

    def normalised(planes: np.ndarray) -> np.ndarray:
        states = planes.reshape(len(planes), -1)
        return np.minimum(np.maximum((states - mean) / std, -bound), bound) if bound else states

    return normalised


def in_numpy(net: ControlNetwork) -> Callable[[np.ndarray], np.ndarray]:
    """The outputs of `forward` for a few states, (N, inputs) -> (N, A), with the weights of now: the same numbers up to rounding.

    For one row PyTorch needs several times as long as NumPy.
    """
    first, second, head = *net.hidden, net.policy
    tensors = first.weight[0], first.bias[0], second.weight[0], second.bias[0], head.weight.T, head.bias
    w1, b1, w2, b2, w3, b3 = (x.detach().cpu().numpy() for x in tensors)
    return lambda states: np.tanh(np.tanh(states @ w1 + b1) @ w2 + b2) @ w3 + b3


def initialise(net: nn.Module, kind: str) -> None:
    """kind: "normc" (first release): each unit's weights normal, scaled to norm 1 (0.01 for the policy's last layer); convolutions
    uniform within sqrt(6 / (fan_in + fan_out)). "orthogonal" (ppo2): gain sqrt(2), 0.01 for the policy's last layer, 1 for the
    value's. Biases are 0."""
    for name, layer in net.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d | Pair):
            continue
        nn.init.zeros_(layer.bias)
        weight = layer.weight.detach()
        for part in weight.transpose(1, 2) if isinstance(layer, Pair) else [weight]:  # (outputs, inputs)
            if kind == "orthogonal":
                nn.init.orthogonal_(part, {"policy": 0.01, "value": 1.0}.get(name, math.sqrt(2)))
            elif isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(part)
            else:
                normal = torch.randn_like(part)
                norm = 0.01 if name == "policy" else 1.0
                part.copy_(norm * normal / normal.norm(dim=1, keepdim=True))


# --- moments of observations and returns ---


class RunningMoments:
    """Mean and standard deviation of all that was seen, in float64 (Chan et al. 1983), after `prior` imagined observations.

    prior: how many observations of mean 0 and variance 1 stand at the start; 0.01 in the first release, 0.0001 in ppo2.
    floor: the smallest variance; 0.01 in the first release, 1e-8 in ppo2 (which adds it).
    """

    def __init__(self, shape: tuple[int, ...], prior: float, floor: float):
        self.count, self.mean, self.squares = prior, np.zeros(shape), np.full(shape, prior)
        self.floor = floor

    def update(self, batch: np.ndarray) -> None:
        """batch: (N, *shape), or anything of as many numbers."""
        batch = batch.reshape(-1, *self.mean.shape)
        n, mean = len(batch), batch.mean(axis=0, dtype=np.float64)
        total, difference = self.count + n, mean - self.mean
        self.squares = (
            self.squares + ((batch - mean) ** 2).sum(axis=0) + difference**2 * (self.count * n / total)
        )
        self.mean, self.count = self.mean + difference * (n / total), total

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.squares / self.count, self.floor))

    def store(self, net: ControlNetwork) -> None:
        """Hands the moments to the network that normalises by them."""
        net.mean.copy_(torch.from_numpy(self.mean.reshape(-1)))
        net.std.copy_(torch.from_numpy(self.std.reshape(-1)))

    def state_dict(self) -> dict:
        return {"count": self.count, "mean": np.array(self.mean), "squares": np.array(self.squares)}

    def load_state_dict(self, state: dict) -> None:
        self.count = float(state["count"])
        self.mean, self.squares = np.array(state["mean"]), np.array(state["squares"])


def observation_moments(filter: str, inputs: int) -> RunningMoments:
    """What a filter starts with: of the first release, moved once an iteration, or of ppo2, moved at every step."""
    prior, floor = {"iteration": (0.01, 0.01), "step": (1e-4, 1e-8)}.get(filter, (1.0, 0.0))
    return RunningMoments((inputs,), prior, floor)


class RewardScale:
    """ppo2: rewards are divided by the standard deviation of the discounted return so far, and clipped to [-10, 10]."""

    def __init__(self, num_envs: int, discount: float):
        self.moments, self.discount = RunningMoments((), prior=1e-4, floor=1e-8), discount
        self.returns = np.zeros(num_envs)  # of each environment's episode so far

    def scaled(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """rewards (T, N), in the order in which they came; ended (T, N): the episode was over with that step."""
        result = np.empty_like(rewards)
        for t in range(len(rewards)):
            self.returns = self.discount * self.returns + rewards[t]
            self.moments.update(self.returns)
            result[t] = (rewards[t] / self.moments.std).clip(-10, 10)
            self.returns[ended[t]] = 0
        return result

    def state_dict(self) -> dict:
        return {"moments": self.moments.state_dict(), "returns": self.returns.copy()}

    def load_state_dict(self, state: dict) -> None:
        self.moments.load_state_dict(state["moments"])
        self.returns = np.array(state["returns"])
