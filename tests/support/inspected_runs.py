"""A trained run with gates, for `ab.inspect`."""

from __future__ import annotations

from pathlib import Path

import accuracy_booster as ab

SITES = ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]


def train_with_gates(where: Path) -> Path:
    """A ResNet-8 with AB, trained on digits for one epoch; nobody changes it."""
    given = {"model": "resnet8", "block": "ab", "epochs": 1, "device": "cpu", "compile": "off"}
    ab.train(**given, batch_size=64, eval_batch_size=100, output=str(where))
    return where
