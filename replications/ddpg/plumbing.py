"""What training needs and the paper is not about: Adam of one vector, and the actor as a function of NumPy arrays, for one state
at a time, where PyTorch needs several times as long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from common.learning.layers import flatten_parameters

Function = Callable[[np.ndarray], np.ndarray]


def adam(net: nn.Module, learning_rate: float, weight_decay: float = 0.0) -> torch.optim.Adam:
    """Adam of a network's weights as one vector; weight_decay times the weights is added to their gradient."""
    weights, gradient = flatten_parameters(net)
    vector = nn.Parameter(weights)
    vector.grad = gradient
    return torch.optim.Adam([vector], learning_rate, weight_decay=weight_decay, fused=True)


def deterministic(actor: nn.Module) -> tuple[Function, Function]:
    """mu(s), (N, stack, *obs_shape) -> (N, A) in [-1, 1], by the weights and running moments that `actor` has when it is asked;
    and the environment's action for it, (N, A) float32."""
    centre, reach = (x.cpu().numpy() for x in (actor.centre, actor.reach))
    mu = in_numpy(actor.layers) if actor.centre.device.type == "cpu" else in_torch(actor)
    return mu, lambda actions: (centre + reach * actions).astype(np.float32)


def in_torch(actor: nn.Module) -> Function:
    """`actor` in evaluation mode, which it is left in."""
    device = actor.centre.device

    @torch.no_grad()
    def mu(states: np.ndarray) -> np.ndarray:
        actor.eval()
        return actor(torch.from_numpy(states).to(device)).cpu().numpy()

    return mu


def in_numpy(layers: nn.Sequential) -> Function:
    """What `layers` compute in evaluation mode: the same numbers up to rounding. Their tensors are shared, not copied."""
    functions = [_FUNCTIONS[type(layer)](layer) for layer in layers]

    def forward(x: np.ndarray) -> np.ndarray:
        for function in functions:
            x = function(x)
        return x

    return forward


def _arrays(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


def _linear(layer: nn.Linear) -> Function:
    weight, bias = _arrays(layer.weight, layer.bias)
    return lambda x: x @ weight.T + bias


def _batch_norm(layer: nn.BatchNorm1d) -> Function:
    mean, variance, weight, bias = _arrays(layer.running_mean, layer.running_var, layer.weight, layer.bias)
    epsilon = np.float32(layer.eps)
    return lambda x: (x - mean) * (weight / np.sqrt(variance + epsilon)) + bias


_FUNCTIONS: dict[type, Callable[[nn.Module], Function]] = {
    nn.Flatten: lambda layer: lambda x: x.reshape(len(x), -1),
    nn.Identity: lambda layer: lambda x: x,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.ReLU: lambda layer: lambda x: np.maximum(x, 0),
    nn.Tanh: lambda layer: np.tanh,
}
