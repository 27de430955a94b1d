"""The arithmetic of operators, by hand and against torch's and fvcore's counters."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torchvision
from support.costs import (
    on_meta,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import accuracy_booster as ab


def flop_counter_macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "name",
    [
        *("timm/resnet18", "timm/mobilenetv3_small_100", "timm/efficientnet_b0"),
        *("timm/convnext_atto", "timm/densenet121", "timm/test_nfnet", "timm/ghostnet_050"),
        *("timm/test_vit", "timm/test_maxvit", "timm/swin_tiny_patch4_window7_224"),
        *("torchvision/googlenet", "torchvision/shufflenet_v2_x0_5", "torchvision/vit_b_16"),
        *("torchvision/squeezenet1_1", "torchvision/vgg11", "torchvision/mnasnet0_5"),
    ],
)
def test_macs_equal_torchs_flop_counter(name):
    """Convolutions, products and attention; and nothing in these networks is unknown."""
    model = on_meta(name)
    cost = ab.complexity(model)
    assert cost.macs == flop_counter_macs(model, cost.input_size)
    assert cost.uncounted == {}
    assert cost.parameters == sum(p.numel() for p in model.parameters())


FVCORE = ["resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1", "efficientnet_b0"]


@pytest.mark.parametrize("name", FVCORE)
def test_macs_equal_fvcore(name):
    fvcore = pytest.importorskip("fvcore.nn")
    model = torchvision.models.get_model(name).eval()
    theirs = fvcore.FlopCountAnalysis(model, torch.zeros(1, 3, 64, 64))
    theirs.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_operator = theirs.by_operator()
    cost = ab.complexity(model, (3, 64, 64))
    assert cost.macs == by_operator["conv"] + by_operator["linear"]


@pytest.mark.parametrize(
    ("module", "kind", "elements"),
    [
        (nn.MaxPool2d(3, 2, padding=1), "pool", 2 * 4 * 4 * 9),
        (nn.AdaptiveAvgPool2d(1), "pool", 2 * 8 * 8),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "pool", 2 * 16 * 16 * 4),
        (nn.Hardswish(), "activation", 2 * 8 * 8),
        (nn.GELU(), "activation", 2 * 8 * 8),
        (nn.PReLU(), "activation", 2 * 8 * 8),
        (nn.ReLU6(inplace=True), "activation", 2 * 8 * 8),
        (nn.Softmax(1), "softmax", 2 * 8 * 8),
        (nn.Flatten(), "pool", 0),
        (nn.Dropout(), "scale", 0),
        (nn.ZeroPad2d(1), "pool", 0),
        (nn.PixelShuffle(1), "pool", 0),
        (nn.Upsample(scale_factor=2), "pool", 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_operators_by_hand(module, kind, elements):
    count = ab.complexity(module, (2, 8, 8)).count
    found = +(count.maps + count.vectors)
    assert dict(found) == ({kind: elements} if elements else {})


def test_a_layer_or_group_norm_also_reads_for_its_statistics():
    for norm in (nn.GroupNorm(2, 4), nn.LayerNorm(8)):
        assert dict(+ab.complexity(norm, (4, 8, 8)).count.maps) == {"norm": 256, "pool": 256}
