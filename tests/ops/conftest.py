"""What the tests of tensor functions share: a fixed start."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers for each test, and nothing compiled."""
    torch.manual_seed(0)
    torch._dynamo.reset()
