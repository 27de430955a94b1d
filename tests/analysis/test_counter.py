"""Counting a pass, against counts by hand and fvcore's; operators that nobody knows."""

# N batch, C channels, H W space

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from support.ranks import SPACES, boosted
from torch import nn
from torch.utils.flop_counter import flop_registry, register_flop_formula

import accuracy_booster as ab
from accuracy_booster.analysis import conventions
from accuracy_booster.surgery import attach
from accuracy_booster.surgery.sites import Site


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_activations_equal_fvcore(name):
    fvcore = pytest.importorskip("fvcore.nn")
    model = torchvision.models.get_model(name).eval()
    theirs = fvcore.ActivationCountAnalysis(model, torch.zeros(1, 3, 64, 64))
    theirs.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert ab.complexity(model, (3, 64, 64)).activations == theirs.total()


class Small(nn.Module):
    """One of each kind of arithmetic."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.norm(self.conv(x))))
        x = x + 1
        x = x * x.sigmoid()
        return self.head(x.flatten(1)).softmax(1)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_kind_of_arithmetic_by_hand(batch):
    large, small = 4 * 8 * 8, 4 * 4 * 4  # elements before and after pooling
    maps = {"mac": large * 3 * 3 * 3, "bias": large, "norm": large, "pool": large}
    maps |= {"activation": large + small, "sum": small, "scale": small}
    vectors = {"mac": 64 * 5, "bias": 5, "softmax": 5}
    cost = ab.complexity(Small(), (3, 8, 8), batch_size=batch)
    assert dict(+cost.count.maps) == {kind: batch * n for kind, n in maps.items()}
    assert dict(+cost.count.vectors) == {kind: batch * n for kind, n in vectors.items()}
    flops = 2 * (maps["mac"] + 320) + (large + 5) + 2 * large + large  # mac, bias, norm, pool
    flops += large + small + small + small + 3 * 5  # activations, sum, scale, softmax
    assert cost.flops == batch * flops
    assert cost.macs == batch * (maps["mac"] + 320)
    assert cost.activations == batch * (large + 5)
    assert cost.parameters == 4 * 27 + 4 + 2 * 4 + 320 + 5
    assert cost.weights == 4 * 27 + 320
    assert cost.rtm == 4 * (cost.parameters + cost.activations)
    terms = sum(batch * n for n in maps.values())
    everything = "+".join(("mac", *conventions.TERMS))
    assert conventions.count(cost.count, everything) == terms + batch * 320


def test_a_gate_that_does_not_run_costs_no_arithmetic():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.used(x)

    sites = [Site("used", 4, (8, 8)), Site("unused", 4, (8, 8))]
    cost = ab.complexity(attach(Half(), "ab", sites), (3, 8, 8))
    assert cost.extra.macs == 4


@pytest.fixture(scope="module")
def mystery():
    @torch.library.custom_op("ab_test::mystery", mutates_args=())
    def operator(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @operator.register_fake
    def _(x):
        return torch.empty_like(x)

    return torch.ops.ab_test.mystery


class Mystery(nn.Module):
    def __init__(self, times: int = 2):
        super().__init__()
        self.conv, self.times = nn.Conv2d(3, 4, 1, bias=False), times

    def forward(self, x):
        x = self.conv(x)
        for _ in range(self.times):
            x = torch.ops.ab_test.mystery(x)
        return x


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_unknown_operator_is_reported(mystery, device, batch):
    model = Mystery().to(device)
    with pytest.warns(UserWarning, match=r"cannot count ab_test::mystery \(2x\)") as caught:
        cost = ab.complexity(model, (3, 5, 5), batch_size=batch)
    assert cost.uncounted == {"ab_test::mystery": 2}
    assert cost.macs == batch * 3 * 4 * 25
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "\n" not in str(caught[0].message)


def test_an_operator_with_a_formula_is_counted(mystery):
    @register_flop_formula(mystery)
    def formula(shape, *args, out_shape=None, **kwargs) -> int:
        return 2 * 1000 * shape[0]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cost = ab.complexity(Mystery(), (3, 5, 5), batch_size=3)
    finally:
        del flop_registry[mystery]
    assert cost.uncounted == {}
    assert cost.macs == 3 * (3 * 4 * 25 + 2 * 1000)


# other numbers of dimensions


@pytest.mark.filterwarnings("ignore:the batch norm of the gate")
@pytest.mark.parametrize("dims", SPACES)
def test_counts_on_every_rank(dims):
    """By hand: layers 8 * 8 * kernel per position, a gate of AB 8 multiply-adds."""
    torch.manual_seed(0)
    net, _ = boosted(dims, 3)
    found = ab.complexity(net, (8, *SPACES[dims]), batch_size=3)
    positions = torch.Size(SPACES[dims]).numel()
    layers = 4 * 8 * 8 * 3**dims * positions
    assert (found.base.macs, found.extra.macs) == (3 * layers, 3 * 2 * 8)
    assert [b.spatial_size for b in found.blocks] == [SPACES[dims]] * 2
    assert found.input_size == (8, *SPACES[dims])


POOLS = {
    1: [nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.AdaptiveMaxPool1d(1)],
    3: [nn.MaxPool3d(2), nn.AvgPool3d(2), nn.AdaptiveAvgPool3d(1), nn.AdaptiveMaxPool3d(1)],
}
FREE = {
    1: [
        nn.Upsample(scale_factor=2),
        nn.ReflectionPad1d(1),
        nn.ReplicationPad1d(1),
        nn.ZeroPad1d(1),
    ],
    3: [
        nn.Upsample(scale_factor=2),
        nn.ReflectionPad3d(1),
        nn.ReplicationPad3d(1),
        nn.ZeroPad3d(1),
    ],
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dims", POOLS)
def test_pooling_counts_what_it_reads_and_padding_nothing(dims, device):
    size = (3, *[4] * dims)
    for kind, counts in ((POOLS, 1), (FREE, 0)):
        for layer in kind[dims]:
            net = nn.Sequential(layer)
            found = ab.complexity(net.to(device), size)
            assert found.flops == counts * 3 * 4**dims, layer
            assert not found.uncounted


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_video_networks_count_as_torchvision_publishes(name):
    from torchvision.models import get_model_weights, video

    weights = get_model_weights(name).DEFAULT
    with torch.device("meta"):
        model = getattr(video, name)()
    found = ab.complexity(model, (3, 16, 112, 112))
    assert found.parameters == weights.meta["num_params"]
    assert found.macs / 1e9 == pytest.approx(weights.meta["_ops"], abs=1e-3)
