"""What variant `fast` adds to an agent: updates as CUDA graphs, updates while the emulators step, and numbers of 16 bits.

Each is asked for in one place of a script, outside the lines of its algorithm. Tests prove the first equal to the plain way, and
the second to updates that lack the steps under way; bfloat16 rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from common.environments.vector import ReplayableEnvs, Step
from common.learning.cuda_graphs import CudaGraphed
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


def has_bfloat16(device_type: str) -> bool:
    """Whether the processor multiplies bfloat16 numbers itself: CPUs with AVX512-BF16 or AMX, GPUs since Ampere."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def in_bfloat16(*networks: nn.Module) -> None:
    """From now on the networks' layers multiply bfloat16 numbers, forwards and backwards, where the processor has them.

    Weights, gradients and optimiser stay float32, and so does the last layer: action values of 8 bits would often be equal, and the
    first action would win. Where the processor lacks them nothing changes.
    """
    for network in networks:
        device_type = next(network.parameters()).device.type
        if has_bfloat16(device_type):
            network.forward = _autocast(network.forward, device_type)
            for layers in network.modules():
                if isinstance(layers, nn.Sequential) and isinstance(layers[-1], nn.Linear):
                    layers[-1].forward = _in_float32(layers[-1].forward, device_type)


def _autocast(forward: Callable[..., torch.Tensor], device_type: str) -> Callable[..., torch.Tensor]:
    def rounded(*inputs: Any) -> torch.Tensor:
        # without a cache of rounded weights: the next update changes the weights, and a CUDA graph keeps no cache
        with torch.autocast(device_type, torch.bfloat16, cache_enabled=False):
            return forward(*inputs)

    return rounded


def _in_float32(forward: Callable[..., torch.Tensor], device_type: str) -> Callable[..., torch.Tensor]:
    def exact(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device_type, enabled=False):
            return forward(x.float())

    return exact
