"""The precision and the device of a training, tried on this machine."""

import math

import pytest
from support.trainings import (
    short,
)

import accuracy_booster as ab
from accuracy_booster import ops
from accuracy_booster.ops import precision


def test_bf16_is_probed_in_a_child_process(grey, tmp_path, monkeypatch):
    """A CPU that ends the child with SIGILL is told in a line, and the parent lives."""
    die = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    for code, works in ((die, False), ("pass", True)):
        monkeypatch.setattr(precision, "_BF16_PROBE", code)
        ops.bf16_works.cache_clear()
        assert ops.bf16_works("cpu") is works
        if not works:
            with pytest.raises(ValueError, match=r"bf16.*use precision='fp32'"):
                ab.train("resnet8", data=str(grey), precision="bf16", **short(tmp_path))
    ops.bf16_works.cache_clear()


def test_bf16_trains_where_it_works(grey, tmp_path):
    ops.bf16_works.cache_clear()
    if not ops.bf16_works("cpu"):
        pytest.skip("this CPU refuses bfloat16 (probed in a child process)")
    result = ab.train("resnet8", data=str(grey), precision="bf16", **short(tmp_path))
    assert math.isfinite(result.history[0]["train_loss"])
