"""`ab.fold(..., verify=True)` finds a wrong fold."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
from support.gated_networks import difference, images, network
from support.strictness import WARNINGS_ARE_ERRORS

import accuracy_booster as ab
from accuracy_booster.fastpath import folding

pytestmark = WARNINGS_ARE_ERRORS


def test_verifying_finds_a_wrong_fold(monkeypatch):
    model, x = network(), images()
    real = folding.fold_norm

    def wrong(conv, norm):
        new = real(conv, norm)
        with torch.no_grad():
            new.bias.add_(1e-3)
        return new

    monkeypatch.setattr(folding, "fold_norm", wrong)
    for given in (x, x[:1] * 0):  # zeros are no test: it then takes random images
        with pytest.raises(RuntimeError, match="from the exact output"):
            ab.fold(model, example=given, verify=True)
    assert difference(model, ab.fold(model, example=x), x) > 1e-5
