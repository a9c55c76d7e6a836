"""Mechanics that scripts share."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from common.learning import layers as learning
from common.learning.layers import ByteConv2d, Pixels, WideLinear


@pytest.mark.parametrize(
    ("kernel", "size", "options"),
    [(8, 84, {"stride": 4}), (3, 7, {"stride": 1}), (3, 9, {"padding": 1, "dilation": 2, "groups": 2})],
)
def test_a_convolution_of_bytes_is_that_of_numbers_from_0_to_1(kernel, size, options):
    torch.manual_seed(0)
    layer = ByteConv2d(4, 6, kernel, **options)
    x = torch.randint(0, 256, (3, 4, size, size), dtype=torch.uint8)
    weight = layer.weight.detach().double().requires_grad_()
    plain = functional.conv2d(x.double() / 255, weight, layer.bias.detach().double(), **options)
    out = layer(Pixels(x) / 255)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), plain, atol=1e-5, rtol=1e-5)
    (out**2).sum().backward()
    (plain**2).sum().backward()
    torch.testing.assert_close(layer.weight.grad.double(), weight.grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("rows", "inputs"), [(8, 3136), (32, 2592), (9, 2001), (9, 512), (7, 3136)])
@pytest.mark.parametrize("convolves", [False, True])
def test_a_wide_linear_layer_is_the_plain_one_and_its_gradients(monkeypatch, rows, inputs, convolves):
    torch.manual_seed(0)
    monkeypatch.setattr(learning, "CONVOLVES", convolves)
    convolutions = []
    conv2d = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *args: convolutions.append(1) or conv2d(*args))
    layer, x = WideLinear(inputs, 5), torch.randn(rows, inputs, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in (layer.weight, layer.bias))
    plain, out = functional.linear(wide, weight, bias), layer(x)
    torch.testing.assert_close(out.double(), plain, atol=1e-5, rtol=1e-5)
    (out**2).sum().backward()
    (plain**2).sum().backward()
    for mine, slow in ((x, wide), (layer.weight, weight), (layer.bias, bias)):
        torch.testing.assert_close(mine.grad.double(), slow.grad, atol=1e-4, rtol=1e-4)
    assert len(convolutions) == (convolves and rows >= 8 and inputs > 2000)
    assert layer(x[:0]).shape == (0, 5)
