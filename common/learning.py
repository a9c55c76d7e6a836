"""Small mechanics that scripts share and no paper is about."""

from __future__ import annotations

import os
import random

import numpy as np
import torch


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


def crossed(period: int, before: int, after: int) -> int:
    """How many multiples of `period` lie in (before, after]: what is due when a counter moves by more than one."""
    return after // period - before // period


def make_deterministic(seed: int, threads: int, deterministic: bool = True) -> None:
    """Seeds every global generator, fixes the number of threads, and asks for deterministic kernels of full precision."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over memory
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32, as on a CPU
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
