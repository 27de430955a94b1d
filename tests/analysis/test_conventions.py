"""Conventions of counting."""

from __future__ import annotations

import pytest
import torch
from support.ranks import (
    SPACES,
    boosted,
)

from accuracy_booster.analysis import complexity

pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_conventions_count_what_norms_give_on_every_rank(dims):
    """Four norms of 8 channels at each position; the gates' norms are no maps'."""
    net, _ = boosted(dims, 3)
    size = (8, *SPACES[dims])
    more = complexity(net, size, convention="mac+norm").macs - complexity(net, size).macs
    assert more == 4 * 8 * torch.Size(SPACES[dims]).numel()
