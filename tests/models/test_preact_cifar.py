"""ResNet-164 and wide ResNets against the paper's counts and pytorchcv's networks."""

from __future__ import annotations

import pytest
import torch
from pytorchcv.model_provider import get_model
from pytorchcv.models.preresnet_cifar import get_preresnet_cifar
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from support.networks_of_ours import (
    images,
    macs,
    on_meta,
    parameters,
    randomise,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models.preact_cifar import PreActResNet, WideResNet
from accuracy_booster.models.resnet_cifar import ResNetCifar


def test_resnet164v1_fits_table_15_once_its_biases_are_counted():
    """The paper prints 1.734M and 246.58M for its base; a bias is one addition per element."""
    model = on_meta("resnet164v1", num_classes=100)
    biased = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert len(biased) == 54
    added = sum(18 * 4 * width * side**2 for width, side in ((16, 32), (32, 16), (64, 8)))
    assert macs(model) + added == pytest.approx(246.588e6, abs=0.001e6)


@pytest.mark.parametrize(
    ("recipe", "printed"),
    [
        ("ab", 1.758),
        ("ab_g16", 1.847),
        ("ab_g8", 1.944),
        ("ab_g4", 2.137),
        ("ab_g2", 2.524),
        ("ab_plus", 3.298),
    ],
)
def test_boosted_resnet164v1_has_the_parameters_of_table_15(recipe, printed):
    model = on_meta("resnet164v1", block=recipe, num_classes=100)
    groups = {"ab": None, "ab_plus": 1}.get(recipe) or int(recipe.partition("_g")[2] or 0)
    squares, channels = 1_548_288, 8_064  # sums of C^2 and C over the 54 blocks
    weights = squares // groups if groups else channels
    assert parameters(model) == 1_734_452 + weights + 2 * channels
    assert parameters(model) / 1e6 == pytest.approx(printed, abs=0.001)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet20", "resnet20_cifar10"),
        ("resnet56", "resnet56_cifar10"),
        ("resnet56", "resnet56_cifar100"),
        ("resnet110", "resnet110_cifar10"),
        ("resnet164", "preresnet164bn_cifar10"),
        ("resnet164", "preresnet164bn_cifar100"),
        ("wrn28_10", "wrn28_10_cifar10"),
        ("wrn16_10", "wrn16_10_cifar10"),
    ],
)
def test_counts_of_pytorchcv(name, theirs):
    """Equal, but for the 1x1 projections (option B) that pytorchcv's ResNets have."""
    with torch.device("meta"):
        other = get_model(theirs)
    ours = on_meta(name, num_classes=other.num_classes)
    projections = [
        m for n, m in other.named_modules() if n.endswith("identity_conv") and theirs[:3] == "res"
    ]
    expected_macs = macs(other)
    if projections:
        assert len(projections) == 2
        expected_macs -= 16 * 32 * 16**2 + 32 * 64 * 8**2
    assert parameters(ours) == parameters(other) - sum(map(parameters, projections))
    assert macs(ours) == expected_macs


def to_v1(theirs: nn.Module) -> nn.Module:
    """pytorchcv's pre-activation ResNet with the stride in the 1x1 and biases in the third conv."""
    for stage in (theirs.features.stage1, theirs.features.stage2, theirs.features.stage3):
        for unit in stage:
            first, middle, last = (block.conv for block in unit.body.children())
            first.stride, middle.stride = middle.stride, first.stride
            last.bias = nn.Parameter(torch.zeros(last.out_channels))
    return theirs


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: PreActResNet(11), lambda: get_preresnet_cifar(10, 11, True)),
        (lambda: PreActResNet(20), lambda: get_preresnet_cifar(10, 20, True)),
        (
            lambda: PreActResNet(20, variant="v1"),
            lambda: to_v1(get_preresnet_cifar(10, 20, True)),
        ),
        (lambda: WideResNet(10, 1), lambda: get_wrn_cifar(10, 10, 1)),
        (lambda: WideResNet(16, 2), lambda: get_wrn_cifar(10, 16, 2)),
    ],
    ids=["preact11", "preact20", "preact20v1", "wrn10_1", "wrn16_2"],
)
def test_preact_networks_equal_pytorchcv(ours, theirs, training):
    model, other = randomise(ours()).train(training), theirs().double().train(training)
    other.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs takes 32x32 images alone
    source, target = model.state_dict(), other.state_dict()
    assert len(source) == len(target)
    for value, copy in zip(source.values(), target.values(), strict=True):
        assert value.shape == copy.shape
        copy.copy_(value)
    x = images()
    torch.testing.assert_close(model(x), other(x), rtol=1e-9, atol=1e-9)
    for value, copy in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(value, copy, rtol=1e-9, atol=1e-9)


def test_a_wide_network_of_any_depth_and_width():
    model = ab.create_model("wrn10_3", num_classes=4)
    assert model.num_features == 3 * 64
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_deep_networks_of_the_classes_are_refused():
    for build in (lambda: ResNetCifar(6 * 10**9 + 2), lambda: PreActResNet(9 * 10**9 + 2)):
        with pytest.raises(ValueError, match="must be <= 2,000"):
            build()
    with pytest.raises(ValueError, match="may have up to"):
        WideResNet(16, 10**400)


@pytest.mark.parametrize("name", ["wrn40_14", "wrn28_20", "wrn22_10"])
def test_published_networks_are_not_too_large(name):
    assert parameters(on_meta(name)) > 10**7
