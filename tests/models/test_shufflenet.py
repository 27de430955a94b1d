"""ShuffleNet against pytorchcv's, and its sites."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import pytorchcv.models.shufflenet
import torch
import torch.nn.functional as F
from support.networks_of_ours import (
    large_images,
    on_meta,
    randomise,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models.shufflenet import ShuffleNet
from accuracy_booster.surgery import attached


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_shufflenet_equals_pytorchcv(groups, training, monkeypatch):
    """But for the order of the concatenation, which the paper does not give."""
    theirs_module = pytorchcv.models.shufflenet
    theirs = randomise(theirs_module.get_shufflenet(groups, 1.0))
    theirs.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs takes 224x224 images alone
    swapped = SimpleNamespace(cat=lambda tensors, dim: torch.cat(tensors[::-1], dim))
    monkeypatch.setattr(theirs_module, "torch", swapped)
    ours = ShuffleNet(groups).double()
    source, target = theirs.state_dict(), ours.state_dict()
    for value, copy in zip(source.values(), target.values(), strict=True):
        assert value.shape == copy.shape
        copy.copy_(value)
    x = large_images(side=48)
    logits = ours.train(training)(x)
    torch.testing.assert_close(logits, theirs.train(training)(x), rtol=1e-9, atol=1e-9)
    for ours_moment, moment in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours_moment, moment, rtol=1e-9, atol=1e-9)


def test_shufflenet_has_16_gates_on_the_branches():
    model = on_meta("shufflenet_g3")
    gates = attached(on_meta("shufflenet_g3", block="ab"))
    channels = [gate.channels for gate in gates.values()]
    assert list(gates) == model.recalibration_sites
    assert channels == [216, *[240] * 3, 240, *[480] * 7, 480, *[960] * 3]  # C_out - C_in first
    assert sum(channels) == 7_896
    assert sum(c * c for c in channels) == 4_885_056


def test_a_shuffle_unit_is_its_shortcut_where_its_site_gives_zero():
    """So the site stands before the concatenation or the sum."""
    model = randomise(ab.create_model("shufflenet_g3")).eval()
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for site in model.recalibration_sites:
        unit = site.rpartition(".")[0]
        model.get_submodule(site).register_forward_hook(lambda m, args, out: torch.zeros_like(out))
        model.get_submodule(unit).register_forward_hook(
            lambda m, args, out, unit=unit: seen.__setitem__(unit, (args[0].clone(), out.clone()))
        )
    with torch.no_grad():
        model(large_images())
    assert len(seen) == 16
    for unit, (x, out) in seen.items():
        expected = x
        if unit.endswith(".0"):
            pooled = F.avg_pool2d(x, 3, 2, padding=1)
            expected = F.pad(pooled, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        torch.testing.assert_close(out, expected.relu(), rtol=1e-12, atol=1e-12)
