"""Which layers take a constant per channel, and why the others keep their gate."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from support.gated_networks import difference, images, network
from support.merged_networks import (
    IN_FLOAT64,
    LayerNet,
    boosted,
    constants,
    marks,
    with_constants,
)
from support.strictness import WARNINGS_ARE_ERRORS
from torch import nn
from torch.nn.utils import prune, weight_norm
from torch.nn.utils.parametrizations import spectral_norm

import accuracy_booster as ab
from accuracy_booster.fastpath import scalable_layers
from accuracy_booster.surgery import attached

pytestmark = WARNINGS_ARE_ERRORS


class Last(LayerNet):
    """The same for maps whose channels come last."""

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.flatten(1, -2).mean(1))


LAYERS = {  # the layer, what goes in; its output has 6 channels
    "bn1d": (lambda: nn.BatchNorm1d(6), (3, 6, 5)),
    "bn1d of vectors": (lambda: nn.BatchNorm1d(6), (3, 6)),
    "bn2d": (lambda: nn.BatchNorm2d(6), (3, 6, 5, 4)),
    "bn3d": (lambda: nn.BatchNorm3d(6), (3, 6, 2, 3, 4)),
    "sync": (lambda: nn.SyncBatchNorm(6), (3, 6, 5, 4)),
    "instance": (lambda: nn.InstanceNorm2d(6, affine=True), (3, 6, 5, 4)),
    "group": (lambda: nn.GroupNorm(3, 6), (3, 6, 5, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (3, 4, 8)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (3, 4, 8, 7)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), (3, 4, 5, 6, 7)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (3, 4, 8)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (3, 4, 8, 7)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 2, bias=False), (3, 4, 3, 4, 5)),
    "linear": (lambda: nn.Linear(4, 6), (3, 4)),
    "frozen": (lambda: torchvision.ops.misc.FrozenBatchNorm2d(6), (3, 6, 5, 4)),
    "torchvision norm": (lambda: torchvision.models.convnext.LayerNorm2d(6), (3, 6, 5, 4)),
    "timm relu": (lambda: timm.layers.BatchNormAct2d(6), (3, 6, 5, 4)),
    "timm leaky": (
        lambda: timm.layers.BatchNormAct2d(6, act_layer=nn.LeakyReLU),
        (3, 6, 5, 4),
    ),
    "timm frozen": (lambda: timm.layers.FrozenBatchNormAct2d(6), (3, 6, 5, 4)),
    "timm group": (lambda: timm.layers.GroupNormAct(6, 3), (3, 6, 5, 4)),
    "timm norm": (lambda: timm.layers.LayerNorm2d(6), (3, 6, 5, 4)),
    "timm rms": (lambda: timm.layers.RmsNorm2d(6), (3, 6, 5, 4)),
    "timm same": (lambda: timm.layers.Conv2dSame(4, 6, 3, stride=2), (3, 4, 8, 7)),
    "timm scale": (lambda: timm.layers.LayerScale2d(6), (3, 6, 5, 4)),
    "last: linear": (lambda: nn.Linear(4, 6), (3, 5, 7, 4)),
    "last: norm": (lambda: nn.LayerNorm(6), (3, 5, 7, 6)),
    "last: no bias": (lambda: nn.LayerNorm(6, bias=False), (3, 5, 7, 6)),
    "last: rms": (lambda: nn.RMSNorm(6), (3, 5, 7, 6)),
    "last: timm norm": (lambda: timm.layers.LayerNorm(6), (3, 5, 7, 6)),
    "last: timm scale": (lambda: timm.layers.LayerScale(6), (3, 5, 7, 6)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer(kind):
    build, shape = LAYERS[kind]
    last = kind.startswith("last")
    base = (Last if last else LayerNet)(build())
    x = torch.randn(shape, dtype=torch.float64)
    for buffer in base.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    model, given = with_gate(base, last, len(shape))
    merged = ab.merge(model, given)
    assert difference(with_constants(model, given), merged, x) < IN_FLOAT64
    assert marks(merged) == marks(type(base)(build()))
    assert [(n, t.dtype) for n, t in merged.state_dict().items()] == [
        (n, t.dtype) for n, t in model.state_dict().items() if "recalibrate" not in n
    ]


def with_gate(base, last, rank):
    """A gate on the first layer, whatever `ab.boost` would think of the place."""
    with torch.no_grad():
        for value in base.parameters():
            value.normal_()
    size = (4,) * (rank - 2)
    ab.surgery.attach(
        base, "ab", [ab.surgery.Site("layers.0", 6, size, "NHWC" if last else "NCHW")]
    )
    base.double().eval()
    return base, constants(base)


def test_a_subclass_that_computes_the_same():
    class Own(nn.BatchNorm2d):
        pass

    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(LayerNet(Own(6)), x)
    assert difference(with_constants(model, given), ab.merge(model, given), x) < IN_FLOAT64


def test_a_layer_that_runs_twice():
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    conv = nn.Conv2d(6, 6, 3, padding=1)
    model, given = boosted(LayerNet(conv, nn.ReLU(), conv), x)
    assert difference(with_constants(model, given), ab.merge(model, given), x) < IN_FLOAT64


class Half(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


def tied():
    first, second = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
    second.weight = first.weight
    return LayerNet(first, second)


def own_forward():
    net = LayerNet(nn.Conv2d(6, 6, 1))
    net.layers[0].forward = lambda x: x * 2
    return net


def with_act(act):
    return lambda: LayerNet(timm.layers.BatchNormAct2d(6, act_layer=act))


REFUSED = {
    "container": (lambda: LayerNet(nn.Sequential(nn.Conv2d(6, 6, 1))), "no weight of a Sequential"),
    "activation": (lambda: LayerNet(nn.Sigmoid()), "no weight of a Sigmoid"),
    "own class": (lambda: LayerNet(Half(6, 6, 1)), "no weight of a Half"),
    "own forward": (own_forward, "another tool gave this Conv2d a forward"),
    "no weight": (lambda: LayerNet(nn.BatchNorm2d(6, affine=False)), r"no weight \(affine=False\)"),
    "no weight, layer norm": (
        lambda: LayerNet(timm.layers.LayerNorm2d(6, affine=False)),
        r"no weight \(affine=False\)",
    ),
    "tied": (tied, "other modules share the Conv2d's weight"),
    "parametrised": (lambda: LayerNet(spectral_norm(nn.Conv2d(6, 6, 1))), "weight is parametrised"),
    "weight norm of old": (
        lambda: LayerNet(weight_norm(nn.Conv2d(6, 6, 1))),
        "weight is parametrised",
    ),
    "pruned": (
        lambda: LayerNet(prune.l1_unstructured(nn.Conv2d(6, 6, 1), "weight", 0.5)),
        "weight is parametrised",
    ),
    "silu": (with_act(nn.SiLU), "goes on with SiLU"),
    "relu6": (with_act(nn.ReLU6), "goes on with ReLU6"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_gates_that_stay(kind):
    build, why = REFUSED[kind]
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(build(), x)
    with pytest.warns(UserWarning, match=rf"not merged: 'layers\.0' \(.*{why}"):
        new = ab.merge(model, given)
    assert len(attached(new)) == 1
    assert difference(model, new, x) == 0
    with pytest.raises(ValueError, match=rf"cannot merge 'layers\.0' \(.*{why}.*leave"):
        ab.merge(model, given, at=["layers.0"])


def test_constants_below_zero():
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(LayerNet(timm.layers.BatchNormAct2d(6), nn.Conv2d(6, 6, 1)), x)
    with pytest.warns(UserWarning, match="goes on with ReLU, and some constants are below 0"):
        ab.merge(model, {"layers.0": -given["layers.0"]})
    model, given = boosted(LayerNet(nn.Conv2d(6, 6, 1)), x)
    given = {"layers.0": -given["layers.0"]}
    assert difference(with_constants(model, given), ab.merge(model, given), x) < IN_FLOAT64


def test_disabled_gates_and_maps_of_another_layout():
    model = network()
    with ab.disabled(model), pytest.warns(UserWarning, match="the gate is disabled"):
        ab.merge(model, constants(model))
    base = LayerNet(nn.Linear(6, 6))
    model, given = with_gate(base, False, 4)
    with pytest.warns(UserWarning, match="the channels of a Linear are not those of the gate"):
        ab.merge(model, given)
    model, given = with_gate(Last(nn.LayerNorm((3, 6))), True, 4)
    with pytest.warns(UserWarning, match="normalises more than the channels"):
        ab.merge(model, given)


@pytest.mark.parametrize("name", ["timm/ghostnet_050", "torchvision/convnext_tiny"])
def test_networks_where_no_site_can_be_merged(name):
    model, x = network(name), images(name)
    with pytest.warns(UserWarning, match=r"and \d+ more \(no weight of a (GhostModule|Permute)"):
        new = ab.merge(model, constants(model))
    assert difference(model, new, x) == 0


def test_memory_that_buffers_share():
    """Two views of one memory are two buffers; the other one keeps its values."""
    first, second = (torchvision.ops.misc.FrozenBatchNorm2d(6) for _ in range(2))
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    model, given = boosted(LayerNet(first, second), x)
    second.weight = first.weight.view(6)
    assert difference(with_constants(model, given), ab.merge(model, given), x) < IN_FLOAT64


def test_every_known_class_is_there():
    """Of the libraries that are installed; each computes by the method that is looked at."""
    for name in scalable_layers.KNOWN:
        module, _, cls = name.rpartition(".")
        found = getattr(__import__(module, fromlist=[cls]), cls)
        assert issubclass(found, nn.Module)
        assert f"{found.__module__}.{found.__qualname__}" == name
