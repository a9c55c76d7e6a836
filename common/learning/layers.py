"""Small mechanics that scripts share and no paper is about."""

from __future__ import annotations

import math
import os
import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def flatten_parameters(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves a module's parameters into one flat vector, and their gradients into another; returns both, (P,) float32.

    The parameters become views, in their own memory format, so an optimiser can update the whole vector in a few operations.
    The gradient vector must be zeroed before each backward pass. Move the module to its device first.
    """
    parameters = list(module.parameters())
    total = sum(p.numel() for p in parameters)
    weights = torch.empty(total, dtype=parameters[0].dtype, device=parameters[0].device)
    gradients = torch.zeros_like(weights)
    start = 0
    for p in parameters:
        view = torch.as_strided(weights, p.shape, p.stride(), start)
        view.copy_(p.data)
        p.data = view
        p.grad = torch.as_strided(gradients, p.shape, p.stride(), start)
        start += p.numel()
    return weights, gradients


def make_deterministic(seed: int, threads: int, deterministic: bool = True) -> None:
    """Seeds every global generator, fixes the number of threads, and asks for deterministic kernels of full precision."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # a debugging aid that costs a pass over memory
    )
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32, as on a CPU
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Pixels:
    """Bytes whose division by a number waits for the first layer, which multiplies its few weights instead of the many pixels.

    Networks say `states / 255`, as they would of a tensor; see `fast_layers`.
    """

    def __init__(self, values: torch.Tensor, divisor: float = 1.0):
        self.values, self.divisor = values, divisor

    def __truediv__(self, divisor: float) -> Pixels:
        return Pixels(self.values, self.divisor * divisor)


class ByteConv2d(nn.Conv2d):
    """`Conv2d` of `Pixels`: the same numbers as `Conv2d` of the tensor that was divided, up to rounding."""

    def forward(self, x: Pixels | torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) -> (B, outputs, H', W') of the weights' dtype, in channels_last memory format."""
        weight = self.weight
        if isinstance(x, Pixels):
            x, weight = x.values, weight / x.divisor
        x = x.contiguous(
            memory_format=torch.channels_last
        )  # as bytes, which are cheaper to rearrange than floats
        x = x.to(weight.dtype)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


CONVOLVES = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
LEAST_ROWS, LEAST_INPUTS = 8, 2000  # from here on it pays


def wide_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`torch.nn.functional.linear` for thousands of inputs: the same numbers up to rounding, on some CPUs sooner.

    On a CPU with AVX-512 the forward pass of a minibatch is a convolution whose kernel is as long as the row: the same sums, for
    which oneDNN needs half the time of a matrix product. Everywhere else, and backwards, it is the matrix product.
    (B, inputs), (outputs, inputs), (outputs,) -> (B, outputs).
    """
    rounded = torch.is_autocast_enabled(x.device.type)  # bfloat16 has a fast product of its own
    pays = CONVOLVES and len(x) >= LEAST_ROWS and x.shape[1] >= LEAST_INPUTS and x.device.type == "cpu"
    if pays and not rounded:
        return _RowConvolution.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


class WideLinear(nn.Linear):
    """`Linear` by way of `wide_linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return wide_linear(x, self.weight, self.bias)


def fast_layers(network: nn.Module, entrance: nn.Module | None = None) -> nn.Module:
    """The network with equal, faster layers in the place of PyTorch's; names, weights and the results (up to rounding) stay.

    For networks of screens, (B, stack, rows, columns) uint8, whose forward pass begins with a division of the bytes. The first
    convolution becomes `ByteConv2d`, linear layers of thousands of inputs `WideLinear`, and the memory format channels_last.
    entrance: the part that is given the bytes; None: the network itself.
    """
    convolutions = [layer for layer in network.modules() if type(layer) is nn.Conv2d]
    if not convolutions:
        return network
    convolutions[0].__class__ = ByteConv2d
    for layer in network.modules():
        if type(layer) is nn.Linear and layer.in_features >= LEAST_INPUTS:
            layer.__class__ = WideLinear
    (entrance or network).register_forward_pre_hook(lambda _, inputs: (Pixels(inputs[0]), *inputs[1:]))
    return network.to(memory_format=torch.channels_last)


class _RowConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        planes = math.gcd(
            x.shape[1], 64
        )  # a row as that many planes of 1 x k pixels; any such split has the same sum
        x, weight = (t.reshape(len(t), 1, -1, planes).permute(0, 3, 1, 2) for t in (x, weight))
        return functional.conv2d(x, weight, bias).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        return d @ weight, d.t() @ x, d.sum(0)


class MLP(nn.Module):
    """Two hidden layers of 128 rectified units, for the vector observations of CartPole; no paper's."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, outputs),
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, stack, *obs_shape) float32 -> (B, outputs)."""
        return self.layers(states)
