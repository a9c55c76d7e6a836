"""Many small kernels launched at once."""

from __future__ import annotations

from collections.abc import Callable

import torch


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
