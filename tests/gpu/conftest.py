"""What the tests on a GPU share: float32 is float32, and a fixed start."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No TF32, the same random numbers in each test, and nothing compiled."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
