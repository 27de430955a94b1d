"""Weights per channel, per position and coarser ones, applied to maps."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch

from accuracy_booster.ops import rescale


@pytest.mark.parametrize("space", [(), (5,), (4, 6), (2, 3, 4)], ids=str)
def test_a_weight_per_channel(space):
    x, weights = torch.randn(2, 3, *space), torch.rand(2, 3)
    found = rescale(x, weights)
    for n in range(2):
        for c in range(3):
            assert torch.equal(found[n, c], x[n, c] * weights[n, c])


def test_weights_per_position():
    x, weights = torch.randn(2, 3, 4, 6), torch.rand(2, 1, 4, 6)
    assert torch.equal(
        rescale(x, weights), torch.stack([x[:, c] * weights[:, 0] for c in range(3)], 1)
    )


def test_coarser_weights_are_enlarged_by_nearest_neighbour():
    x, weights = torch.ones(1, 2, 4, 6), torch.rand(1, 2, 2, 3)
    found = rescale(x, weights)
    for h in range(4):
        for w in range(6):
            assert torch.equal(found[..., h, w], weights[..., h // 2, w // 2])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_type_and_memory_format_are_the_maps(layout):
    x = torch.randn(2, 3, 4, 6).bfloat16().contiguous(memory_format=layout)
    y = rescale(x, torch.rand(2, 3))
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=layout)
