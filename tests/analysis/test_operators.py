"""The arithmetic of operators, by hand and against torch's and fvcore's counters."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from support.costs import (
    on_meta,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import accuracy_booster as ab
from accuracy_booster.analysis.counter import OperationCounter


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


class Of(nn.Module):
    """`work(layer, x)` as a network."""

    def __init__(self, layer: nn.Module, work):
        super().__init__()
        self.layer, self.work = layer, work

    def forward(self, x):
        return self.work(self.layer, x)


def attention(layer, x):
    return layer(x, x, x)[0]


def products(layer, x):
    return F.scaled_dot_product_attention(x, x, x)


def causal(layer, x):
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)


def masked(layer, x):
    return F.scaled_dot_product_attention(x, x, x, torch.ones(9, 9, device=x.device))


def apply(layer, x):
    return layer(x)


# batch first: 49 tokens of 64 in 1 sample; else 49 samples of 1 token
PROJECTIONS = 4 * 49 * 64 * 64
ENCODER = 2 * (4 * 9 * 32 * 32 + 2 * 9 * 9 * 32 + 2 * 9 * 32 * 48)
# make, work, input, multiply-adds by hand
CASES = {
    "attention": (
        *(lambda: nn.MultiheadAttention(64, 4), attention, (1, 49, 64)),
        PROJECTIONS + 49 * 2 * 64,
    ),
    "attention, batch first": (
        *(lambda: nn.MultiheadAttention(64, 4, batch_first=True), attention, (1, 49, 64)),
        PROJECTIONS + 2 * 49 * 49 * 64,
    ),
    "attention without weights": (
        lambda: nn.MultiheadAttention(64, 4, batch_first=True),
        lambda layer, x: layer(x, x, x, need_weights=False)[0],
        (1, 49, 64),
        PROJECTIONS + 2 * 49 * 49 * 64,
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(32, 4, 48, batch_first=True),
        *(apply, (2, 9, 32), ENCODER),
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 3, enable_nested_tensor=False
        ),
        *(apply, (2, 9, 32), 3 * ENCODER),
    ),
    "scaled products": (nn.Identity, products, (2, 4, 9, 16), 2 * 4 * 2 * 9 * 9 * 16),
    "causal products": (nn.Identity, causal, (2, 4, 9, 16), 2 * 4 * 2 * 9 * 9 * 16),
    "masked products": (nn.Identity, masked, (2, 4, 9, 16), 2 * 4 * 2 * 9 * 9 * 16),
    "LSTM": (lambda: nn.LSTM(16, 8), apply, (5, 2, 16), 5 * 2 * 4 * 8 * (16 + 8)),
    "LSTM both ways": (
        lambda: nn.LSTM(16, 8, 2, bidirectional=True, batch_first=True),
        *(apply, (2, 5, 16), 5 * 2 * 2 * 4 * 8 * (16 + 8 + 16 + 8)),
    ),
    "LSTM with projection": (
        lambda: nn.LSTM(16, 8, proj_size=4),
        *(apply, (5, 2, 16), 5 * 2 * (4 * 8 * (16 + 4) + 8 * 4)),
    ),
    "GRU": (lambda: nn.GRU(16, 8), apply, (5, 2, 16), 5 * 2 * 3 * 8 * (16 + 8)),
    "RNN": (lambda: nn.RNN(16, 8), apply, (5, 2, 16), 5 * 2 * 8 * (16 + 8)),
    "cell": (lambda: nn.LSTMCell(16, 8), apply, (2, 16), 2 * 4 * 8 * (16 + 8)),
    "matrix and vector": (nn.Identity, lambda layer, x: x @ x[0], (9, 16), 9 * 16),
    "two vectors": (nn.Identity, lambda layer, x: x[0] @ x[1], (9, 16), 16),
    "a sum and a vector": (
        *(nn.Identity, lambda layer, x: torch.addmv(x[:, 0], x, x[0]), (9, 16), 9 * 16),
    ),
    "products summed": (
        nn.Identity,
        lambda layer, x: torch.addbmm(x[0, :, :9], x, x.transpose(1, 2)),
        (2, 9, 16),
        2 * 9 * 9 * 16,
    ),
    "1-D": (lambda: nn.Conv1d(4, 6, 3), apply, (2, 4, 7), 2 * 6 * 5 * 4 * 3),
    "3-D": (lambda: nn.Conv3d(4, 6, 3), apply, (2, 4, 5, 5, 5), 2 * 6 * 27 * 4 * 27),
}


def counted(make, work, shape, device, training):
    with torch.device(device):
        model, x = Of(make(), work).train(training), torch.ones(shape)
    counter = OperationCounter({})
    with torch.no_grad(), counter:
        model(x)
    assert not counter.uncounted
    return counter.total


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_multiply_adds_are_those_by_hand_on_every_device(case, training):
    make, work, shape, expected = CASES[case]
    for device in ("cpu", "meta"):
        assert counted(make, work, shape, device, training).macs == expected, device


@pytest.mark.parametrize("case", CASES)
def test_everything_counts_the_same_on_both(case):
    make, work, shape, _ = CASES[case]
    cpu, meta = (counted(make, work, shape, device, False) for device in ("cpu", "meta"))
    assert (cpu.flops, cpu.outputs) == (meta.flops, meta.outputs)


@pytest.mark.parametrize("case", ["attention, batch first", "encoder layer", "GRU", "3-D"])
def test_multiply_adds_are_half_of_torchs_count(case):
    make, work, shape, expected = CASES[case]
    with torch.device("meta"):
        model, x = Of(make(), work).train(), torch.ones(shape)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() == 2 * expected


def test_torchs_own_way_is_put_back():
    before = torch.backends.mha.get_fastpath_enabled()
    layer = nn.LSTM(4, 4)
    counter = OperationCounter({})
    with counter:
        assert not torch.backends.mha.get_fastpath_enabled()
        with pytest.raises(RuntimeError):
            layer(torch.ones(3, 2, 5))
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert torch.backends.mkldnn.enabled
