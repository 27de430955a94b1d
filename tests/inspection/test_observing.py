"""`ab.gates`: gates that run in unusual ways, errors, and that nothing changes."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from support.observed_detectors import (
    assert_gates_of_detector_are,
    detector_images,
    detector_weights,
    make_detector,
)
from support.observed_networks import BYTES, Net, X, Y, images, lively, pairs, weights_by_hook
from torch import nn

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate


class Twice(nn.Module):
    """One gated module runs twice in a pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.gate = ab.Recalibrate(3, "ab", spatial_size=(8, 8))

    def forward(self, x):
        return self.gate(self.conv(self.gate(self.conv(x)).relu())).mean((2, 3))


def test_a_gate_that_runs_twice_has_the_mean_of_both_passes():
    torch.manual_seed(0)
    net = lively(Twice())
    (gate,) = ab.gates(net, [images(5)]).values()
    (p,) = weights_by_hook(net, [images(5)]).values()
    first, second = p.split(5)
    assert (first - second).abs().max() > 0.01
    torch.testing.assert_close(gate.mean, ((first + second) / 2).mean(0), rtol=1e-4, atol=1e-5)
    assert (gate.count, gate.highest.images.shape) == (5, (3, 5))


class Regions(nn.Module):
    """Some gates see several maps of an image, or maps that belong to no image."""

    def __init__(self):
        super().__init__()
        self.frames = ab.Recalibrate(3, "ab", spatial_size=(8, 8))
        self.regions = ab.Recalibrate(3, "ab", spatial_size=(8, 8))

    def forward(self, x):  # [N, 2, 3, 8, 8]
        y = self.frames(x.flatten(0, 1))
        return self.regions(torch.cat([y, y[:1]])).mean()


def test_maps_that_are_not_one_for_each_image():
    net = lively(Regions())
    x = torch.randn(4, 2, 3, 8, 8)
    gates = ab.gates(net, [(x, torch.tensor([0, 1, 0, 1]))])
    frames, regions = weights_by_hook(net, [x]).values()
    torch.testing.assert_close(gates["frames"].mean, frames.mean(0), rtol=1e-4, atol=1e-5)
    by_image = frames.unflatten(0, (4, 2)).mean(1)
    torch.testing.assert_close(
        gates["frames"].highest.weights[:, 0], by_image.amax(0), rtol=1e-4, atol=1e-5
    )
    assert gates["frames"].count == 4
    assert gates["frames"].class_counts.tolist() == [2, 2]
    torch.testing.assert_close(gates["regions"].mean, regions.mean(0), rtol=1e-4, atol=1e-5)
    assert gates["regions"].count == 9
    assert gates["regions"].highest is None
    assert gates["regions"].class_means is None


def test_names_must_fit_the_labels(net):
    names = ("cat", "dog", "eel", "fox")  # no image is of the last
    assert ab.gates(net, pairs(), classes=names).classes == names
    assert ab.gates(net, pairs()).classes == ("0", "1", "2")
    with pytest.raises(ValueError, match="label 2, and classes= has 1 names; name all"):
        ab.gates(net, pairs(), classes=["cat"])
    with pytest.raises(ValueError, match="names 'cat' twice"):
        ab.gates(net, pairs(), classes=["cat", "dog", "cat"])


def poisoned(value):
    net = lively(Net())
    net.second[0].bn.bias.data[2] = value
    return net


WRONG = {
    "uint8": (lambda: (Net(), [BYTES]), "images of uint8.*x.float"),
    "int64": (lambda: (Net(), [BYTES.long()]), "images of int64.*x.float"),
    "channels": (
        lambda: (Net(), [images(2, channels=1)]),
        r"Net cannot take .*\[2, 1, 8, 8\]",
    ),
    "no batch": (lambda: (Net(), [X[0]]), r"\[3, 8, 8\]"),
    "a tensor": (
        lambda: (Net(), X),
        r"one tensor, .*; give batches, such as \[im",
    ),
    "arrays": (lambda: (Net(), [X.numpy()]), "it must be tensors: images"),
    "a dict of others": (lambda: (Net(), [{"pictures": X}]), "which of pictures"),
    "nothing": (lambda: (Net(), []), "yields no images"),
    "empty": (lambda: (Net(), [(X[:0], Y[:0])]), "yields no images"),
    "plain": (lambda: (torchvision.models.resnet18(), [X]), "has no gates; give a network"),
    "no module": (lambda: ("resnet18", [X]), "expected an nn.Module, got str"),
    "meta": (lambda: (Net().to("meta"), [X]), "Net is on the meta device.*load its weights"),
    "NaN": (lambda: (poisoned(float("nan")), [X]), "the gate at 'second' gives weights.*NaN"),
    "NaN image": (lambda: (Net(), [X * float("nan")]), "the gate at 'first' gives weights.*NaN"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_errors_say_what_to_give(kind):
    make, message = WRONG[kind]
    with pytest.raises(ValueError, match=message) as e:
        ab.gates(*make())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("count", [0, -1, 2.5, "3"])
def test_a_number_of_images_that_is_none(net, count):
    with pytest.raises(ValueError, match=f"images={count!r} must be a whole number >= 1"):
        ab.gates(net, pairs(), images=count)


def test_infinite_logits_are_saturated_weights(net):
    gate = ab.gates(poisoned(float("inf")), [X])["second"]
    assert float(gate.mean[2]) == 1
    assert float(gate.above[2]) == 1


def test_gates_that_do_not_run(net):
    net.second.enabled = False
    gates = ab.gates(net, pairs())
    assert (list(gates), gates.silent) == (["first"], ("second",))
    net.first.enabled = False
    gates = ab.gates(net, pairs())
    assert (list(gates), gates.silent) == ([], ("first", "second"))
    with pytest.raises(ValueError, match="none of the gates ran"):
        gates.find()


def state_of(net):
    return {
        "tensors": {k: v.clone() for k, v in net.state_dict().items()},
        "training": {name: m.training for name, m in net.named_modules()},
        "gradients": torch.is_grad_enabled(),
        "needs": [p.requires_grad for p in net.parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in net.modules()
        ],
        "attributes": {name: sorted(m.__dict__) for name, m in net.named_modules()},
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize("ends", ["well", "in the loader", "in the pass", "by NaN"])
def test_nothing_changes(net, ends):
    net.train()
    net.mid.eval()
    net.second[0].bn.eval()
    calls = []

    def fail(module, args):
        calls.append(1)
        if len(calls) == 2 and ends == "in the pass":
            raise KeyError("a fault")

    net.mid.register_forward_pre_hook(fail)
    with torch.no_grad():
        copied = copy.deepcopy(net).eval()(X)
    before, calls[:] = state_of(net), []

    def loader():
        for number, x in enumerate(X.split(5)):
            if number == 1 and ends == "in the loader":
                raise OSError("a fault")
            yield x * float("nan") if ends == "by NaN" else x

    if ends == "well":
        ab.gates(net, loader())
    else:
        with pytest.raises((ValueError, OSError), match=r"fault|NaN"):
            ab.gates(net, loader())
    after = state_of(net)
    for name in before:
        if name in ("tensors",):
            assert all(torch.equal(before[name][k], after[name][k]) for k in before[name])
        elif name == "random":
            assert torch.equal(before[name], after[name])
        else:
            assert before[name] == after[name], name
    assert all(m.change is None for m in net.modules() if isinstance(m, Gate))
    calls[:] = [1] * 5
    with torch.no_grad():
        assert torch.equal(net.eval()(X), copied)


# detectors


def test_gates_of_a_head_count_each_region():
    detector = make_detector(head="c4", rpn_post_nms_top_n_test=6, rpn_nms_thresh=0.99)
    all_ = detector_images(4)
    batches = [all_[:2], all_[2:]]
    gates = ab.gates(detector, [(b, None) for b in batches])
    expected = detector_weights(detector, batches)
    assert_gates_of_detector_are(gates, expected)
    counts = [gate.count for gate in gates.values()]
    assert counts[0] == 4
    assert counts[-1] == 24  # 6 regions of each image
    assert gates.images == 4


def test_what_is_no_image_is_told(detector):
    with pytest.raises(ValueError, match=r"FasterRCNN|Detector") as caught:
        ab.gates(detector, [([torch.rand(3, 8, 8).long()], None)])
    assert "\n" not in str(caught.value)
