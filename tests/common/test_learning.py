"""Mechanics that scripts share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from common.learning import BlockConv2d, RunningMoments


@pytest.mark.parametrize(
    ("inputs", "kernel", "stride", "size"), [(4, 8, 4, 84), (3, 4, 2, 20), (2, 3, 1, 7), (1, 6, 2, 14)]
)
def test_block_convolution_equals_the_plain_one_and_its_gradients(inputs, kernel, stride, size):
    torch.manual_seed(0)
    block = BlockConv2d(inputs, 5, kernel, stride, scale=1 / 255)
    x = torch.randint(0, 256, (3, inputs, size, size), dtype=torch.uint8)
    weight = block.weight.detach().double().requires_grad_()
    plain = functional.conv2d(x.double() / 255, weight, block.bias.detach().double(), stride=stride)
    out = block(x)
    torch.testing.assert_close(out.double(), plain, atol=1e-5, rtol=1e-5)
    (out**2).sum().backward()
    (plain**2).sum().backward()
    torch.testing.assert_close(block.weight.grad.double(), weight.grad, atol=1e-3, rtol=1e-4)


def test_a_kernel_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(ValueError, match="kernel 5 is not a multiple of the stride 2"):
        BlockConv2d(1, 1, 5, 2)


def test_running_moments_equal_those_of_all_that_was_seen():
    rng = np.random.default_rng(0)
    batches = [rng.normal(1e6, 3, size=(n, 4)) for n in (1, 7, 2, 100)]
    moments = RunningMoments((4,))
    assert moments.mean.tolist() == [0] * 4
    assert moments.std.tolist() == [1] * 4
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, everything.std(0), rtol=1e-6)
    other = RunningMoments((4,))
    other.load_state_dict(moments.state_dict())
    for m in (moments, other):
        m.update(batches[1])
    assert np.array_equal(moments.mean, other.mean)
    assert np.array_equal(moments.std, other.std)


def test_what_never_changes_can_be_divided_by():
    moments = RunningMoments((1,))
    moments.update(np.full((5, 1), 3.0))
    assert moments.std[0] == pytest.approx(1e-4)
