"""The weights that are read from gates, against hooks, in all kinds of networks."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import copy

import pytest
import torch
from support.observed_networks import (
    Net,
    assert_gates_are,
    boosted,
    images,
    lively,
    weights_by_hook,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.inspection.gate_weights import gates_in


@pytest.mark.parametrize("name", ab.list_recipes())
def test_weights_are_what_each_recipe_multiplies_with(name):
    torch.manual_seed(0)
    net = lively(Net(name))
    batches = images(9, seed=3).split(4)
    gates = ab.gates(net, batches)
    assert_gates_are(gates, weights_by_hook(net, batches))
    sites = ["first", "first#2", "second", "second#2"] if name == "cbam" else ["first", "second"]
    assert list(gates) == sites
    for gate in gates.values():
        assert gate.scale == ab.recipe(name).gates[0].scale
        assert gate.shared == gate.site.endswith("#2")
        assert (gate.width, gate.spatial_size) == (6, (8, 8))
        assert gate.per_position == (gate.shared or name in POSITIONS)
    assert set(gates.means()) == {s for s in sites if "#2" not in s and name not in POSITIONS}


POSITIONS = ("design_i", "design_j", "design_k", "design_l", "dw3_bn", "dw9_bn")


def test_a_scale_of_two():
    torch.manual_seed(0)
    net = lively(Net("gap | dense(groups=C) | bn | sigmoid(scale=2)"))
    batches = images(40).split(20)
    gates = ab.gates(net, batches)
    assert_gates_are(gates, weights_by_hook(net, batches))
    assert gates["first"].scale == 2
    assert float(gates["first"].highest.weights.max()) > 1.05
    for site, p in zip(gates, weights_by_hook(net, batches).values(), strict=True):
        expected = ((p < 0.1) | (p > 1.9)).double().mean()
        assert gates[site].saturated == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("resnet18", "ab"),
        ("resnet18", "cbam"),
        ("resnext50_32x4d", "ab_plus"),
        ("timm/convnext_atto", "ab"),  # channels last
        ("timm/resnet10t", "se"),
    ],
)
def test_networks_of_other_libraries(name, block):
    net = boosted(name, block)
    batches = images(6, size=32).split(4)
    assert_gates_are(ab.gates(net, batches), weights_by_hook(net, batches), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_detector_of_ultralytics(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    torch.manual_seed(0)
    net = tasks.DetectionModel("yolov8n.yaml", verbose=False)
    net = lively(ab.boost(net, "ab", example=torch.zeros(1, 3, 64, 64)))
    x = 30 * images(3, size=64)
    boxes = {"cls": torch.zeros(5, 1), "bboxes": torch.rand(5, 4), "batch_idx": torch.zeros(5)}
    gates = ab.gates(net, [{"img": x, **boxes}])
    assert_gates_are(gates, weights_by_hook(net, [x]), rtol=1e-3, atol=1e-4)
    assert all(gate.class_means is None for gate in gates.values())


@pytest.mark.filterwarnings("ignore")
def test_a_network_of_hugging_face_on_dicts():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    torch.manual_seed(0)
    net = lively(ab.boost(transformers.ResNetForImageClassification(config), "ab"))
    x, y = images(6, size=32), torch.tensor([0, 1, 2, 0, 1, 2])
    dicts = [{"pixel_values": a, "labels": b} for a, b in zip(x.split(4), y.split(4), strict=True)]
    gates = ab.gates(net, dicts, classes=["a", "b", "c"])
    assert_gates_are(gates, weights_by_hook(net, x.split(4)), rtol=1e-3, atol=1e-4)
    assert gates.classes == ("a", "b", "c")
    assert all(gate.class_counts.tolist() == [2, 2, 2] for gate in gates.values())


def test_fused_materialised_and_wrapped_networks_give_the_same():
    net = boosted("resnet18")
    batches = images(5, size=32).split(3)
    expected = weights_by_hook(net, batches)
    fused = ab.fuse(copy.deepcopy(net), example=torch.zeros(1, 3, 32, 32))
    assert ab.fast_path(fused).taken == 8
    wrapped = {
        "fused": fused,
        "materialised": ab.materialize(net)[0],
        "parallel": nn.DataParallel(net),
        "averaged": torch.optim.swa_utils.AveragedModel(net),
        "compiled": torch.compile(net, backend="eager"),
    }
    plain = ab.gates(net, batches)
    assert next(iter(plain)) == "layer1.0.bn2"
    for name, other in wrapped.items():
        gates = ab.gates(other, batches)
        assert list(gates) == list(plain), name
        assert_gates_are(gates, expected)
        # layer by layer, whatever it is: to the last bit
        assert all(torch.equal(gates[site].mean, plain[site].mean) for site in plain), name


def test_nothing_is_compiled_for_the_pass():
    """A gate that is read is another one for a compiler, and it would start anew."""
    counted = []

    def backend(graph, inputs):
        counted.append(graph)
        return graph

    net = Net().eval()
    net.mid = torch.compile(net.mid, backend=backend)
    net.compile(backend=backend)
    with torch.no_grad():
        net(images(4))
    before = len(counted)
    assert before
    assert len(ab.gates(net, [images(4)])) == 2
    assert len(counted) == before


def test_networks_of_sixteen_bits():
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        net = lively(Net("design_i")).to(dtype)
        gates = ab.gates(net, [images(6)])
        expected = weights_by_hook(net, [images(6)])
        assert_gates_are(gates, expected, rtol=0.05, atol=0.02)
        assert gates["first"].mean.dtype is torch.float64
        # the mean over 64 positions is not rounded to 16 bits
        lows = gates["first"].lowest.weights
        assert not torch.equal(lows, lows.to(dtype).double())


def test_a_folded_network(net):
    model = boosted("resnet18").eval()
    folded = ab.fold(model, example=torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"folded for inference.*give the network that was"):
        ab.gates(folded, [images(2, size=32)])


def test_a_fused_network_runs_fused_again():
    from accuracy_booster.ops import backend

    fused = ab.fuse(boosted("resnet18").eval(), example=torch.zeros(1, 3, 32, 32))
    x = images(2, size=32)
    with torch.no_grad():
        before = fused(x)
        ab.gates(fused, [x])
        assert torch.equal(fused(x), before)
    assert not backend.is_unfused()


def test_a_gate_that_another_tool_dropped_is_found_once_it_is_put_back():
    net, x = boosted("resnet18").eval(), images(2, size=32)
    sites = list(ab.gates(net, [x]))
    norm = net.layer1[0].bn2
    net.layer1[0].bn2 = nn.BatchNorm2d(norm.num_features)  # as a tool that rebuilds norms does
    names = set(net.state_dict())
    gates_in(net)
    assert set(net.state_dict()) == names, "looking for gates has changed the network"
    assert list(ab.gates(net, [x])) == sites
    assert [one.site for one in gates_in(net)] == sites
