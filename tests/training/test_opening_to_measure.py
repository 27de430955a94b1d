"""What cannot be measured is told: runs, data, options and modules."""

import re

import pytest
from support.trainings import (
    short,
)
from torch import nn

import accuracy_booster as ab


def test_evaluate_refusals(grey, tmp_path):
    result = ab.train("resnet8", data=str(grey), **short(tmp_path))
    with pytest.raises(ValueError, match="3"):
        ab.evaluate(result.output, "digits")
    with pytest.raises(ValueError, match="holds no run"):
        ab.evaluate(tmp_path)
    with pytest.raises(ValueError, match="nearest: eval_batch_size"):
        ab.evaluate(result.output, batch_size=3)
    with pytest.raises(ValueError, match="more than the head's 2"):
        ab.evaluate(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), str(grey))
    weights = result.output / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        ab.evaluate(result.output)
    weights.unlink()
    with pytest.raises(
        ValueError, match=f"has not ended.*--resume {re.escape(str(result.output))}"
    ):
        ab.evaluate(result.output)
