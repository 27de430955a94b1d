"""The summary of what is trained."""

from __future__ import annotations

from support.detector_models import QUIET, tiny

import accuracy_booster as ab
from accuracy_booster.detection import summary

pytestmark = QUIET


def test_the_summary_counts_every_parameter_once():
    model = tiny(trainable_layers=2, norms="normal")
    lines = summary(model)
    rows = {line[:9].strip(): line[9:].split() for line in lines[1:]}
    assert list(rows) == [
        *("stem", "layer1", "layer2", "layer3", "layer4", "FPN", "RPN", "box head", "all")
    ]
    counts = {n: [int(cell.replace(",", "")) for cell in row[:4]] for n, row in rows.items()}
    every = list(model.parameters())
    assert counts["all"][0] == sum(p.numel() for p in every if p.requires_grad)
    assert sum(counts["all"][:2]) == sum(p.numel() for p in every)
    added = ab.added_parameters(model)
    assert sum(counts["all"][2:]) == sum(p.numel() for p in added)
    assert counts["layer1"][0] == 0
    assert counts["layer1"][3] > 0
    assert counts["layer4"][3] == 0
    assert rows["layer1"][4:] == ["frozen", "frozen"]
    assert rows["layer4"][4:] == ["normal", "normal"]
