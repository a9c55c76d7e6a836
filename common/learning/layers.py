"""Small mechanics that scripts share and no paper is about."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional


def flatten_parameters(module: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
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


def times_due(period: int, before: int, after: int) -> int:
    """How many multiples of `period` lie in (before, after]: what is due when a counter moves by more than one."""
    return after // period - before // period


class CudaGraphed:
    """A function of tensors as one CUDA graph: its many small kernels are launched at once. The same kernels, the same numbers.

    The function takes tensors (or None) of the same shapes at every call and returns a tensor or a tuple of them. It may change what it
    holds on to (weights, sums, the default generator); it must not wait for the host (`.item()`, `.cpu()`), nor depend on a
    Python number that changes. The first calls run as they are, on a stream of their own, for libraries to set themselves up;
    then the function is recorded, and from there on played back. What it returns is overwritten by the next call.

    on: False runs the function itself, on any device.
    """

    WARM_UP = 3  # calls before the recording

    def __init__(self, function: Callable, on: bool):
        self.function, self.on = function, on
        self.calls, self.graph = 0, None

    def __call__(self, *inputs: torch.Tensor | None):
        if not self.on:
            return self.function(*inputs)
        self.calls += 1
        if self.calls <= self.WARM_UP:
            return self._aside(*inputs)
        if self.graph is None:
            self.inputs = [None if x is None else x.clone() for x in inputs]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, and runs nothing
                self.outputs = self.function(*self.inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            if mine is not None:
                mine.copy_(given)
        self.graph.replay()
        return self.outputs

    def _aside(self, *inputs: torch.Tensor | None):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs


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


class ByteConv2d(torch.nn.Conv2d):
    """`Conv2d` of bytes, taken as numbers from 0 to 1: the 1/255 multiplies the few weights instead of the many pixels.

    The same numbers as `Conv2d` of the input divided by 255, up to rounding.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) uint8 -> (B, outputs, H', W') of the weights' dtype, in channels_last memory format."""
        x = x.contiguous(
            memory_format=torch.channels_last
        )  # as bytes, which are cheaper to rearrange than floats
        x = x.to(self.weight.dtype)
        return functional.conv2d(
            x, self.weight / 255, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


CONVOLVES = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
LEAST_ROWS, LEAST_INPUTS = 8, 2000  # from here on it pays


def wide_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`torch.nn.functional.linear` for thousands of inputs: the same numbers up to rounding, on some CPUs sooner.

    On a CPU with AVX-512 the forward pass of a minibatch is a convolution whose kernel is as long as the row: the same sums, for
    which oneDNN needs half the time of a matrix product. Everywhere else, and backwards, it is the matrix product.
    (B, inputs), (outputs, inputs), (outputs,) -> (B, outputs).
    """
    if CONVOLVES and len(x) >= LEAST_ROWS and x.shape[1] >= LEAST_INPUTS and x.device.type == "cpu":
        return _RowConvolution.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


class WideLinear(torch.nn.Linear):
    """`Linear` by way of `wide_linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return wide_linear(x, self.weight, self.bias)


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


class RunningMoments:
    """Mean and standard deviation of everything seen so far, exactly, in float64 (Chan et al. 1983); 0 and 1 at the start."""

    def __init__(self, shape: tuple[int, ...]):
        self.count, self.mean, self.squares = 0, np.zeros(shape), np.zeros(shape)

    def update(self, batch: np.ndarray) -> None:
        """batch: (N, *shape)."""
        n, mean = len(batch), batch.mean(axis=0, dtype=np.float64)
        total, difference = self.count + n, mean - self.mean
        self.squares = (
            self.squares + ((batch - mean) ** 2).sum(axis=0) + difference**2 * (self.count * n / total)
        )
        self.mean, self.count = self.mean + difference * (n / total), total

    @property
    def std(self) -> np.ndarray:
        """At least 1e-4, so that what never changes can be divided by it."""
        return np.sqrt(self.squares / self.count + 1e-8) if self.count else np.ones_like(self.mean)

    def state_dict(self) -> dict:
        return {"count": self.count, "mean": np.array(self.mean), "squares": np.array(self.squares)}

    def load_state_dict(self, state: dict) -> None:
        self.count, self.mean, self.squares = (
            state["count"],
            np.array(state["mean"]),
            np.array(state["squares"]),
        )
