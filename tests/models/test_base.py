"""What all networks of ours have in common: order of modules, sites, heads, input sizes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.networks_of_ours import (
    images,
    on_meta,
    order,
    randomise,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.models.base import Network
from accuracy_booster.models.preact_cifar import PreActResNet, WideResNet
from accuracy_booster.models.resnet_cifar import ResNetCifar
from accuracy_booster.surgery import attached

SMALL: dict[str, Callable[..., nn.Module]] = {  # one of each kind, as shallow as it goes
    "resnet8": lambda **options: ResNetCifar(8, **options),
    "resnet14": lambda **options: ResNetCifar(14, **options),
    "preact11": lambda **options: PreActResNet(11, **options),
    "preact11v1": lambda **options: PreActResNet(11, variant="v1", **options),
    "wrn10_1": lambda **options: WideResNet(10, 1, **options),
    "wrn16_2": lambda **options: WideResNet(16, 2, **options),
}


@pytest.mark.parametrize("name", [n for n in ab.list_models() if isinstance(on_meta(n), Network)])
def test_modules_are_registered_in_the_order_of_execution(name):
    """Of our own classes; timm's use one activation several times."""
    registered, run = order(on_meta(name), torch.empty(1, 3, 8, 8, device="meta"))
    assert run == registered


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("resnet20", 9, "bn2"),
        ("resnet56", 27, "bn2"),
        ("resnet110", 54, "bn2"),
        ("resnet164", 54, "conv3"),
        ("resnet164v1", 54, "conv3"),
        ("wrn22_10", 9, "conv2"),
        ("wrn16_2", 6, "conv2"),
    ],
)
def test_recalibration_sites_are_counted_and_named(name, count, last):
    model = on_meta(name)
    sites = model.recalibration_sites
    assert len(sites) == len(set(sites)) == count
    assert {site.rpartition(".")[2] for site in sites} == {last}
    gates = attached(on_meta(name, block="ab"))
    assert list(gates) == sites


@pytest.mark.parametrize("name", SMALL)
def test_a_block_is_its_shortcut_where_its_site_gives_zero(name):
    model = randomise(SMALL[name]()).eval()
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for site in model.recalibration_sites:
        block = site.rpartition(".")[0]
        model.get_submodule(site).register_forward_hook(lambda m, args, out: torch.zeros_like(out))
        model.get_submodule(block).register_forward_hook(
            lambda m, args, out, block=block: seen.__setitem__(block, (args[0], out))
        )
    model(images())
    assert len(seen) == len(model.recalibration_sites)
    changes = 0
    for name, (x, out) in seen.items():
        block = model.get_submodule(name)
        if name.startswith("layer1") or not name.endswith(".0"):
            expected = x
        else:
            changes += 1
            expected = x[:, :, ::2, ::2]
        if isinstance(model, ResNetCifar):
            extra = (out.shape[1] - x.shape[1]) // 2
            expected = F.pad(expected, (0, 0, 0, 0, extra, extra)).relu()
        elif isinstance(block.downsample, nn.Conv2d):
            stride = x.shape[2] // out.shape[2]
            expected = F.conv2d(block.bn1(x).relu(), block.downsample.weight, None, stride)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert changes == 2


@pytest.mark.parametrize("name", SMALL)
def test_convolutions_start_from_he_initialisation(name):
    """N(0, 2 / (k * k * outputs)); zero biases."""
    torch.manual_seed(0)
    model = SMALL[name]()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            outputs, area = module.out_channels, module.kernel_size[0] ** 2
            values = module.weight.detach()
            tolerance = 5 / math.sqrt(2 * values.numel())
            assert values.std() / math.sqrt(2 / (outputs * area)) == pytest.approx(1, abs=tolerance)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("chans", [1, 4])
def test_in_chans_and_num_classes(name, chans):
    model = SMALL[name](in_chans=chans, num_classes=5).double()
    assert model(images(chans=chans)).shape == (2, 5)
    with pytest.raises(RuntimeError):
        model(images(chans=3))


@pytest.mark.parametrize("name", SMALL)
def test_head_and_features_follow_timm(name):
    model = randomise(SMALL[name](num_classes=6)).eval()
    x = images()
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert features.shape == (2, model.num_features, 3, 3)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    assert torch.equal(model.forward_head(features), model(x))
    assert model(x).shape == (2, model.num_classes) == (2, 6)
    assert model.get_classifier().in_features == model.num_features
    model.reset_classifier(11)
    assert model.num_classes == model.get_classifier().out_features == 11
    assert model.double()(x).shape == (2, 11)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert torch.equal(model(x), pooled)
    assert not list(model.get_classifier().parameters())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("height", "width"), [(17, 19), (8, 32), (3, 5), (1, 1)])
def test_odd_input_sizes(name, height, width):
    model = randomise(SMALL[name]()).eval()
    x = images(2, height, width)
    quarter = tuple(math.ceil(math.ceil(side / 2) / 2) for side in (height, width))
    assert model.forward_features(x).shape[2:] == quarter
    logits = model(x)
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    torch.testing.assert_close(model(x[1:]), logits[1:])


@pytest.mark.parametrize("name", SMALL)
def test_the_input_is_left_as_it_was(name):
    """The in-place ReLUs must not reach the caller's images."""
    model, x = SMALL[name]().double(), images()
    before = x.clone()
    model(x)
    assert torch.equal(x, before)
