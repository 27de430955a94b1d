"""Only the classes of gated modules change, and copies, dtypes and parametrisations keep gates."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from support.boosting import (
    EXAMPLE,
    gated,
    hook_count,
    images,
    net,
)
from support.gated_branches import (
    Steps,
    assert_gated,
    steps,
)
from support.gates import force, halved, stir
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

import accuracy_booster as ab
from accuracy_booster.surgery import attached


@pytest.mark.parametrize("recipe", ["ab", "cbam"])
def test_copies_are_gated_and_can_be_unboosted(recipe):
    model, x = gated(recipe), images()
    y = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), y)
        with ab.disabled(other):
            assert not torch.equal(other(x), y)
        ab.unboost(other)
        assert hook_count(other) == 0
        assert not torch.equal(other(x), y)
    assert torch.equal(model(x), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_before_and_after(dtype):
    base, x = net().eval(), images()
    model = stir(ab.boost(copy.deepcopy(base), "ab", example=EXAMPLE)).eval()
    expected = model(x)
    after = copy.deepcopy(model).to(dtype)
    before = ab.boost(copy.deepcopy(base).to(dtype), "ab", example=EXAMPLE).eval()
    before.load_state_dict(model.state_dict())
    for other in (after, before):
        assert {p.dtype for p in ab.added_parameters(other)} == {dtype}
        y = other(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1)
        other.train()(x.to(dtype)).float().sum().backward()


def test_memory_format():
    model, x = gated(), images()
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("first", ["parametrised", "boosted"])
@pytest.mark.parametrize("removed", [False, True])
def test_parametrised_convolutions_keep_their_gates(first, removed):
    x = torch.randn(2, 4, 6, 6)
    model = Steps(*steps()).eval()
    base = copy.deepcopy(model)
    if first == "parametrised":
        parametrizations.weight_norm(model.b[3])
    force(ab.boost(model, "ab", example=x[:1], where=["b.3"])).eval()
    if first == "boosted":
        parametrizations.weight_norm(model.b[3])
    expected = halved(copy.deepcopy(base), ["b.3"])(x).detach()
    assert_gated(model, x, expected)
    if removed:
        parametrize.remove_parametrizations(model.b[3], "weight")
        assert_gated(model, x, expected)
        assert type(model.b[3]).__name__ == "GatedConv2d"
    assert_gated(copy.deepcopy(model), x, expected)
    ab.unboost(model)
    assert_gated(model, x, base(x).detach())
    if removed:
        assert type(model.b[3]) is nn.Conv2d


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "copy": copy.copy,
    "average": AveragedModel,
    "ema": timm.utils.ModelEmaV3,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_keep_the_gates(resnet, how):
    model, x, expected = resnet
    assert_gated(COPIES[how](model).eval(), x, expected)


def test_a_pickled_network_loads_in_a_new_process(resnet, tmp_path):
    import subprocess
    import sys

    model, x, expected = resnet
    torch.save((model, x, expected), tmp_path / "network.pt")
    code = (
        "import sys, torch; m, x, y = torch.load(sys.argv[1], weights_only=False); "
        "assert (m(x) - y).abs().max() < 1e-4, 'gates are lost'"
    )
    path = str(tmp_path / "network.pt")
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=120)


def test_only_the_classes_of_gated_modules_change(resnet):
    model, _, _ = resnet
    changed = {n for n, m in model.named_modules() if type(m).__name__.startswith("Gated")}
    assert changed == set(attached(model))
    assert isinstance(model.layer1[0].bn2, nn.BatchNorm2d)
    ab.unboost(model)
    assert type(model.layer1[0].bn2) is nn.BatchNorm2d
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
