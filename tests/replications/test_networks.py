"""The network that a value-based script trains is the plain PyTorch one that it shows: the same values and gradients."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from common.learning import layers
from common.papers import resolve
from tests.training import spaces

NETWORKS = [
    ("dqn_2013", None), ("dqn", None), ("double_dqn", None), ("double_dqn", "tuned"), ("prioritized_dqn", None),
    ("dueling_dqn", None), ("dueling_dqn", "single_clip"), ("rainbow", None), ("rainbow", "no_noisy"),
    ("rainbow", "no_distributional"),
]  # fmt: skip


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize(("paper", "variant"), NETWORKS)
def test_faster_layers_compute_the_plain_network(monkeypatch, paper, variant, rows):
    """Each layer's fast path is taken, whatever the processor, and in the plain network none; noise is drawn equally."""
    monkeypatch.setattr(layers, "CONVOLVES", True)
    script = importlib.import_module(f"replications.{paper}.train")
    config = script.Config(**resolve(paper, variant, "breakout", "paper").settings)
    fast = script.make_network(config, spaces(4, (84, 84)))
    assert {type(m) for m in fast.modules()} >= {layers.ByteConv2d}
    monkeypatch.setattr(script, "fast_layers", lambda network, entrance=None: network)
    plain = script.make_network(config, spaces(4, (84, 84)))
    assert not {type(m) for m in plain.modules()} & {layers.ByteConv2d, layers.WideLinear}
    plain.load_state_dict(fast.state_dict())

    states = torch.randint(0, 256, (rows, 4, 84, 84), dtype=torch.uint8)
    pull = torch.randn(rows, 4)
    gradients = []
    for q in (fast, plain):
        if q is plain:
            monkeypatch.setattr("replications.rainbow.network.wide_linear", nn.functional.linear)
        torch.manual_seed(3)
        values = q(states)
        (values * pull).sum().backward()
        gradients.append([values.detach(), *(p.grad for p in q.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_networks_without_screens_are_left_alone():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(layers.LEAST_INPUTS, 3))
    assert type(layers.fast_layers(plain)[1]) is nn.Linear
