"""What variant `fast` adds to an agent: updates as CUDA graphs, and updates while the emulators step.

Both are asked for in one place of a script, outside the lines of its algorithm, and a test proves each equal to the plain way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from common.environments.vector import ReplayableEnvs, Step
from common.learning.replay import Replay


def on_batches(update: Callable[..., Any], replay: Replay, cuda_graph: bool) -> Callable[..., Any]:
    """`update(batch, *tensors)` as a function of indices in the memory, (B, 2) as `Replay.draw` gives them, and those tensors.

    cuda_graph: on a GPU that holds the memory, from the indices to the new weights is one CUDA graph.
    """

    def gathered(flat_indices: Any, *tensors: torch.Tensor) -> Any:
        return update(replay.gather(flat_indices), *tensors)

    step = CudaGraphed(gathered, on=cuda_graph and replay.on_device is not None)
    return lambda indices, *tensors: step(replay.flat_indices(indices), *tensors)


class Overlapped:
    """Environments that call `learn` while their emulators step, instead of the loop after it: its updates never see the
    transitions under way. Everything else is the environments' own."""

    def __init__(self, envs: ReplayableEnvs, learn: Callable[[], None]):
        self._envs, self._learn = envs, learn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envs, name)

    def step(self, actions: np.ndarray) -> Step:
        self._envs.send(actions)
        self._learn()
        return self._envs.recv()


def overlapped(envs: ReplayableEnvs, learn: Callable[[], None]) -> tuple[Any, Callable[[], None]]:
    """Environments that learn while they step, and a `learn` for the loop, which has nothing left to do."""
    return Overlapped(envs, learn), lambda: None


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
