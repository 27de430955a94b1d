"""What the paper's conventions count as MACs."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
from support.costs import (
    SHUFFLENET,
    on_meta,
)
from support.ranks import SPACES, boosted

import accuracy_booster as ab

RESNEXT, LEARNED = "resnext101_32x4d", {"input_size": (3, 224, 224)}


@pytest.mark.parametrize(
    ("name", "recipe", "parameters", "macs"),
    [
        (SHUFFLENET, None, 1_865_728, 140_459_472),
        (SHUFFLENET, "ab", 1_865_728 + 23_688, 140_467_368),
        (SHUFFLENET, "ab_plus", 1_865_728 + 4_900_848, 145_344_528),
        (RESNEXT, None, 44_177_704, 7_991_221_248),
        (RESNEXT, "se", 48_955_416, 7_995_964_416),
        (RESNEXT, "ge_theta_plus", 57_919_256, 8_004_895_744),
        (RESNEXT, "ge_theta_plus_ab", 53_239_080, 8_000_185_088),
    ],
)
def test_one_per_element_of_a_norm(name, recipe, parameters, macs):
    cost = ab.complexity(on_meta(name, recipe, **LEARNED), convention="mac+norm")
    assert (cost.parameters, cost.macs, cost.convention) == (parameters, macs, "mac+norm")


def test_one_per_element_of_a_residual_sum():
    cost = ab.complexity(on_meta("resnet152v1"), convention="mac+sum")
    stages = ((3, 256, 56), (8, 512, 28), (36, 1024, 14), (3, 2048, 7))
    assert cost.macs == 11_282_415_616 + sum(n * c * side**2 for n, c, side in stages)


def test_one_per_element_of_a_bias():
    """Of a convolution: the head's bias is added to vectors."""
    cost = ab.complexity(on_meta("resnet164v1", num_classes=100), convention="mac+bias")
    assert cost.macs == pytest.approx(246.588e6, abs=0.001e6)


# other numbers of dimensions


@pytest.mark.filterwarnings("ignore:the batch norm of the gate")
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_conventions_count_what_norms_give_on_every_rank(dims):
    """Four norms of 8 channels at each position; the gates' norms are no maps'."""
    torch.manual_seed(0)
    net, _ = boosted(dims, 3)
    size = (8, *SPACES[dims])
    more = ab.complexity(net, size, convention="mac+norm").macs - ab.complexity(net, size).macs
    assert more == 4 * 8 * torch.Size(SPACES[dims]).numel()
