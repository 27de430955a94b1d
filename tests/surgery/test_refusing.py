"""Models that cannot be boosted are refused, with what to do instead, and stay as they are."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from support.boosting import (
    EXAMPLE,
    gated,
    hook_count,
    images,
    net,
)
from support.gates import force, halved, stir
from support.sites import (
    BlockOfRank,
    C,
    sites_of,
)
from torch import nn

import accuracy_booster as ab


def data_parallel():
    return nn.DataParallel(net())


def compiled():
    return torch.compile(net(), backend="aot_eager")


def scripted():
    return torch.jit.trace(net().eval(), EXAMPLE)


def quantised():
    quantization = pytest.importorskip("torch.ao.quantization")
    if not torch.backends.quantized.supported_engines:
        pytest.skip("no engine for quantised networks")
    return quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)


def boosted_before():
    return gated()


def without_sites():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))


def around_a_network():
    """A module like those that ultralytics puts around its networks: `YOLO("yolov8n.yaml")`."""
    outer = type("Model", (nn.Module,), {"__module__": "ultralytics.engine.model"})
    model = type("Own", (outer,), {})()
    model.model = net()
    return model


def yolo():
    return pytest.importorskip("ultralytics", exc_type=ImportError).YOLO("yolov8n.yaml")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (data_parallel, r"DataParallel.*model\.module"),
        (compiled, "compiled.*do this first"),
        (scripted, "TorchScript.*instead"),
        (quantised, "quantised.*before"),
        (boosted_before, "has a gate already.*unboost"),
        (without_sites, "no residual branch.*where="),
        (around_a_network, r"^Own is what.*give its network, model\.model$"),
        (yolo, r"^YOLO is what.*give its network, model\.model$"),
        (lambda: "resnet50", "nn.Module, got str"),
    ],
)
def test_what_cannot_be_boosted_is_refused(make, words):
    model = make()
    keys = list(model.state_dict()) if isinstance(model, nn.Module) else []
    count = hook_count(model) if isinstance(model, nn.Module) else 0
    for refuse in (ab.plan, ab.boost):
        with pytest.raises(ValueError, match=words):
            refuse(model, "ab", example=EXAMPLE)
    if isinstance(model, nn.Module):
        assert list(model.state_dict()) == keys
        assert hook_count(model) == count


def test_a_compiled_part_is_refused():
    model = net()
    model.layers[0] = torch.compile(model.layers[0], backend="eager")
    with pytest.raises(ValueError, match=r"compiled.*boost"):
        ab.boost(model, "ab", example=EXAMPLE)


def test_a_network_compiled_in_place_is_refused_or_gated():
    torch._dynamo.reset()
    model, x = net().eval(), images()
    expected = model(x)
    model.compile(backend="aot_eager")
    model(x)
    try:
        stir(ab.boost(model, "ab", example=EXAMPLE))
    except ValueError:
        return
    got = model.eval()(x)
    assert not torch.allclose(got, expected, rtol=1e-2)
    torch._dynamo.reset()
    torch.testing.assert_close(got, model(x))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: ab.plan(m, where=3),
        lambda m: ab.plan(m, where=None),
        lambda m: ab.plan(m, where=[3]),
        lambda m: ab.plan(m, where=""),
        lambda m: ab.plan(m, example=(1, 3, 64, 64)),
        lambda m: ab.boost(m, example={"pixel_values": torch.zeros(1, 3, 64, 64)}),
        lambda m: ab.unboost(3),
        lambda m: ab.added_parameters(None),
        lambda m: ab.save(m, "nowhere"),
        lambda m: ab.load(m, None),
    ],
)
def test_wrong_types_are_value_errors(call):
    with pytest.raises(ValueError):
        call(timm.create_model("resnet10t", num_classes=3))


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_waits_to_be_quantised_is_taken():
    model = torchvision.models.quantization.resnet18(weights=None, quantize=False, num_classes=3)
    assert len(sites_of(model, torch.randn(1, 3, 32, 32))) == 8


@pytest.mark.filterwarnings("ignore")
def test_what_holds_quantised_weights_is_refused():
    model = nn.Sequential(BlockOfRank(2), nn.Flatten(), nn.Linear(C * 16, 2))
    if not [e for e in torch.backends.quantized.supported_engines if e != "none"]:
        pytest.skip("no engine for quantised networks")
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    with pytest.raises(ValueError, match=r"quantised.*'2"):
        ab.plan(quantised, example=torch.zeros(1, C, 4, 4))


class LazyBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.LazyConv2d(C, 3, padding=1)
        layers = nn.LazyConv2d(C, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU()
        self.b = nn.Sequential(*layers, nn.LazyConv2d(C, 3, padding=1), nn.LazyBatchNorm2d())

    def forward(self, x):
        x = self.stem(x)
        return x + self.b(x)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_query_leaves_lazy_modules_as_they_are():
    model = LazyBlock()
    for query in (ab.plan, ab.complexity):
        query(model)
        assert isinstance(model.stem, nn.LazyConv2d)
        assert isinstance(model.b[4].weight, nn.UninitializedParameter)
        assert all(m.training for m in model.modules())
    x = torch.randn(2, 3, 6, 6)
    boosted = force(ab.boost(model, example=x[:1])).eval()
    assert type(model.stem) is nn.Conv2d
    with torch.no_grad():
        got = boosted(x)
        with ab.disabled(boosted):
            expected = halved(boosted, ["b.4"])(x)
    torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_network_that_is_refused_stays_lazy():
    model = nn.Sequential(nn.LazyConv2d(C, 3), nn.ReLU())
    with pytest.raises(ValueError, match="no residual branch"):
        ab.boost(model)
    assert isinstance(model[0], nn.LazyConv2d)
