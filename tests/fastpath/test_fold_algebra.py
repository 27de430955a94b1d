"""The formulas of folding, against torch and in 16 bits."""

# N batch, C channels, H W space

from __future__ import annotations

import copy

import pytest
import torch
from support.gated_networks import images, network
from support.networks import randomise
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn

import accuracy_booster as ab
from accuracy_booster.fastpath import folding
from accuracy_booster.fastpath.folded_modules import FoldedGate

pytestmark = WARNINGS_ARE_ERRORS


def test_a_norm_is_folded_as_torch_folds_it():
    """Weights and biases against torch's own fuse_conv_bn_eval."""
    conv, norm = nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8, eps=1e-3)
    model = randomise(nn.Sequential(conv, norm), signs=True).double().eval()
    theirs = torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    ours = folding.fold_norm(model[0], model[1])
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_networks_fold_in_float64(dtype, form):
    """Only the weights are looked at: not every CPU convolves in 16 bits."""
    conv, norm = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)
    randomise(nn.Sequential(conv, norm), signs=True).to(dtype).eval()
    ours = folding.fold_norm(conv, norm)
    exact = folding.fold_norm(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
    assert ours.weight.dtype == ours.bias.dtype == dtype
    torch.testing.assert_close(ours.weight, exact.weight.to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(ours.bias, exact.bias.to(dtype), rtol=0, atol=0)
    gate = ab.Recalibrate(8, "ab").to(dtype).eval()
    folded = folding.fold_gate(ours, gate, form)
    assert {p.dtype for p in folded.parameters()} == {torch.float32}


def test_the_gate_is_known_from_fewer_numbers():
    """No norm is left in a folded gate: one affine map and a sigmoid, or two with a ReLU."""
    for recipe, stages in (("ab", 1), ("ab_plus", 1), ("se", 2), ("eca", 1)):
        folded = ab.fold(network(recipe=recipe), example=images()[:1])
        gates = [m for m in folded.modules() if isinstance(m, FoldedGate)]
        assert len(gates) == 3
        for gate in gates:
            assert len(gate.stages) == stages
            p = gate(torch.randn(4, next(gate.parameters()).shape[-1], dtype=torch.float64))
            assert p.shape[0] == 4
            assert ((p >= 0) & (p <= 1)).all()
            assert (p.std(0) > 0).any()
