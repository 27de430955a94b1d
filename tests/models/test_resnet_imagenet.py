"""ResNets for ImageNet against the paper's counts and torchvision's networks."""

from __future__ import annotations

import pytest
import torch
import torchvision
from support.networks_of_ours import (
    QUICK,
    large_images,
    on_meta,
    randomise,
)
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

import accuracy_booster as ab
from accuracy_booster.surgery import attached


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def assert_same_logits(ours: nn.Module, theirs: nn.Module, side: int = 64) -> None:
    x = large_images(side=side)
    with torch.no_grad():
        expected, logits = theirs.double().eval()(x), ours.double().eval()(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9 * float(expected.std()))


@pytest.mark.parametrize(
    ("name", "count", "macs"),
    [
        ("resnet50", 25_557_032, pytest.approx(4.089e9, abs=0.001e9)),
        ("resnet50v1", 25_557_032, 3_857_973_248),
        ("resnet152", 60_192_808, None),
        ("resnet152v1", 60_192_808, 11_282_415_616),
        ("wrn18_2", 45_618_216, 6_695_706_624),
        ("resnext101_32x4d", 44_177_704, 7_969_996_800),
        ("shufflenet_g3", 1_865_728, 137_460_672),
    ],
)
def test_counts_of_the_paper_s_imagenet_networks(name, count, macs):
    model = on_meta(name)
    assert parameters(model) == count
    if macs is not None:
        assert ab.complexity(model).macs == macs


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnets_have_the_names_shapes_and_macs_of_torchvision(depth):
    ours = on_meta(f"resnet{depth}")
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}")
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    assert ab.complexity(ours).macs == ab.complexity(theirs).macs


@pytest.mark.parametrize("name", ["resnet50v1", "resnet101v1", "resnet152v1"])
def test_v1_has_the_names_of_its_resnet(name):
    assert shapes(on_meta(name)) == shapes(on_meta(name.removesuffix("v1")))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_equal_torchvision(name):
    theirs = randomise(torchvision.models.get_model(name))
    ours = ab.create_model(name).double()
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs)


def test_resnet50v1_strides_in_the_first_1x1():
    theirs = randomise(torchvision.models.resnet50())
    ours = ab.create_model("resnet50v1").double()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        elsewhere = theirs.eval()(large_images())
        assert not torch.allclose(ours.eval()(large_images()), elsewhere, rtol=1e-3)
    for block in (theirs.layer2[0], theirs.layer3[0], theirs.layer4[0]):
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    assert_same_logits(ours, theirs)


def test_resnext101_32x4d_equals_torchvision():
    theirs = randomise(
        torchvision.models.ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
    )
    ours = ab.create_model("resnext101_32x4d").double()
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs, side=32)


def wide_resnet18() -> nn.Module:
    """From torchvision's blocks: a stem of 64, stages of 128, 256, 512 and 1024."""
    model = torchvision.models.resnet18()
    inputs = 64
    for stage, width in enumerate((128, 256, 512, 1024)):
        stride = 2 if stage else 1
        projection = nn.Sequential(
            nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        )
        blocks = BasicBlock(inputs, width, stride, projection), BasicBlock(width, width)
        setattr(model, f"layer{stage + 1}", nn.Sequential(*blocks))
        inputs = width
    model.fc = nn.Linear(inputs, 1000)
    return model


def test_wrn18_2_equals_one_of_torchvisions_blocks():
    theirs = randomise(wide_resnet18())
    ours = ab.create_model("wrn18_2").double()
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs, side=32)


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("resnet18", 8, "bn2"),
        ("resnet50", 16, "bn3"),
        ("resnet50v1", 16, "bn3"),
        ("resnet152v1", 50, "bn3"),
        ("wrn18_2", 8, "bn2"),
        ("resnext101_32x4d", 33, "bn3"),
    ],
)
def test_each_imagenet_residual_block_has_a_gate_on_its_last_norm(name, count, last):
    gates = attached(on_meta(name, block="ab"))
    assert len(gates) == count
    assert {site.rpartition(".")[2] for site in gates} == {last}


@pytest.mark.parametrize("name", QUICK)
def test_no_norm_starts_at_zero(name):
    """As torchvision's: a gate on a norm that gives zeros would get no gradient."""
    model = ab.create_model(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.weight.all() for norm in norms)
