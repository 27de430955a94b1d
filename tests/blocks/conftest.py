"""Fixtures of the tests of blocks."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch

from accuracy_booster import ops
from accuracy_booster.blocks import gate_norm


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def dtype(request):
    if request.param is torch.bfloat16 and not ops.bf16_works("cpu"):
        pytest.skip("bfloat16 does not run on this CPU (accuracy_booster.ops.bf16_works)")
    return request.param


@pytest.fixture(autouse=True)
def _seeded_and_quiet(monkeypatch):
    """Random numbers that repeat, and no warning of the small batches of the tests."""
    torch.manual_seed(0)
    monkeypatch.setattr(gate_norm.small_batch_warning, "given", True)
