"""The batches of all kinds of loaders."""

# N images, C channels, K classes, H W space

from __future__ import annotations

import pytest
import torch
from support.observed_detectors import (
    assert_gates_of_detector_are,
    detector_images,
    detector_weights,
)
from support.observed_networks import X, Y, assert_gates_are, lively, pairs, weights_by_hook
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accuracy_booster as ab


def one_hot(mixed=0.0):
    return nn.functional.one_hot(Y, 3).float() * (1 - mixed) + mixed / 3


LOADERS = {
    "pairs": lambda: pairs(),
    "lists": lambda: [list(pair) for pair in pairs()],
    "generator": lambda: (pair for pair in pairs()),
    "dicts": lambda: [{"image": x, "label": y} for x, y in pairs()],
    "dicts of another name": lambda: [{"x": x, "targets": y, "name": ["a"]} for x, y in pairs()],
    "more items": lambda: [(x, y, torch.arange(len(x))) for x, y in pairs()],
    "one-hot": lambda: pairs(y=one_hot()),
    "whole one-hot": lambda: pairs(y=nn.functional.one_hot(Y, 3)),
    "mixed": lambda: pairs(y=one_hot(0.3)),
    "a column": lambda: pairs(y=Y[:, None]),
    "lists of numbers": lambda: [(x, y.tolist()) for x, y in pairs()],
    "small numbers": lambda: pairs(y=Y.to(torch.uint8)),
    "float64": lambda: pairs(X.double()),
    "one at a time": lambda: pairs(size=1),
    "two workers": lambda: DataLoader(TensorDataset(X, Y), 5, num_workers=2),
}


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("kind", LOADERS)
def test_loaders_of_images_and_classes(net, kind):
    gates = ab.gates(net, LOADERS[kind]())
    expected = weights_by_hook(net, [X])
    assert_gates_are(gates, expected)
    assert gates.images == 13
    for gate, p in zip(gates.values(), expected.values(), strict=True):
        assert gate.class_counts.tolist() == [5, 4, 4]
        means = torch.stack([p[k == Y].mean(0) for k in range(3)])
        torch.testing.assert_close(gate.class_means, means, rtol=1e-4, atol=1e-5)
        assert torch.equal(gate.highest.images[:, 0], p.argmax(0))


def test_sixteen_bit_images_are_given_the_networks_type(net):
    assert_gates_are(ab.gates(net, [X.half()]), weights_by_hook(net, [X.half()]))


MULTI = torch.tensor([[1.0, 1, 0]]).repeat(13, 1)
UNLABELLED = {
    "tensors": lambda: X.split(5),
    "images in a tuple": lambda: [(x,) for x in X.split(5)],
    "detection": lambda: [(x, [{"boxes": torch.rand(2, 4)} for _ in x]) for x in X.split(5)],
    "one without": lambda: pairs(y=torch.where(torch.arange(13) == 7, -1, Y)),
    "ignored": lambda: pairs(y=torch.where(torch.arange(13) < 7, -100, Y)),
    "none": lambda: pairs(y=torch.full((13,), -1)),
    "numbers to fit": lambda: pairs(y=torch.rand(13)),
    "masks": lambda: pairs(y=torch.zeros(13, 8, 8, dtype=torch.long)),
    "several classes each": lambda: pairs(y=MULTI),
    "several classes each, whole": lambda: pairs(y=MULTI.long()),
    "words": lambda: [(x, ["cat"] * len(x)) for x in X.split(5)],
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_loaders_without_the_class_of_every_image(net, kind):
    gates = ab.gates(net, UNLABELLED[kind]())
    assert_gates_are(gates, weights_by_hook(net, [X]))
    for gate in gates.values():
        assert gate.class_means is gate.class_counts is gate.class_share is None


def test_the_first_images_alone(net):
    for count in (1, 5, 7, 13, 100):
        gates = ab.gates(net, pairs(), images=count)
        assert gates.images == min(count, 13)
        assert_first = weights_by_hook(net, [X[:count]])["first.0"]
        torch.testing.assert_close(gates["first"].mean, assert_first.mean(0), rtol=1e-4, atol=1e-5)
        assert int(gates["first"].class_counts.sum()) == min(count, 13)
    read = []

    def endless():
        while True:
            read.append(1)
            yield X

    assert ab.gates(net, endless(), images=26).images == 26
    assert len(read) == 2


def test_labels_that_are_no_classes_are_told(net):
    with pytest.warns(UserWarning, match=r"labels, \[5\], are no class numbers \[13\]"):
        gates = ab.gates(net, [(X, torch.arange(5))], classes=["a", "b"])
    with pytest.raises(ValueError, match="the images have no labels"):
        gates.separating("a", "b")
    labelled = ab.gates(net, pairs(), classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="'a' and 'a' are one class"):
        labelled.separating("a", "a")


class Two(nn.Module):
    """An image and a number for each of its channels."""

    def __init__(self):
        super().__init__()
        self.gate = ab.Recalibrate(3, "ab", spatial_size=(8, 8))

    def forward(self, image, shift):
        return self.gate(image + shift[:, :, None, None]).mean()


def test_a_network_with_two_inputs():
    net, shift = lively(Two()), torch.randn(13, 3)
    expected = weights_by_hook(nn.Sequential(net.gate), [X + shift[:, :, None, None]])
    example = (X[:1], shift[:1])
    rows = [*zip(X.split(5), shift.split(5), Y.split(5), strict=True)]
    named = [{"shift": b, "image": a, "labels": c, "other": 1} for a, b, c in rows]
    by_name = dict(zip(("image", "shift"), example, strict=True))
    for loader, given in ((rows, example), (named, by_name), (named, None)):
        gates = ab.gates(net, loader, example=given, images=12)
        assert gates["gate"].class_counts.tolist() == [4, 4, 4]
        assert_gates_are(ab.gates(net, loader, example=given), expected)
    assert ab.gates(net, [row[:2] for row in rows], example=example)["gate"].class_means is None
    with pytest.raises(ValueError, match="has 1 items, and example= has 2 inputs; let the loader"):
        ab.gates(net, [X], example=example)
    with pytest.raises(ValueError, match="names 'shift', which a batch of the loader lacks"):
        ab.gates(net, [{"image": X}], example=by_name)
    with pytest.raises(ValueError, match=r"example= names inputs.*\[13, 3, 8, 8\]; let the loader"):
        ab.gates(net, [X], example=by_name)
    with pytest.raises(ValueError, match=r"Two cannot take .*\[13, 3, 8, 8\].*give.*example="):
        ab.gates(net, [X])


# detectors


def target():
    return {"boxes": torch.tensor([[4.0, 4, 30, 30]]), "labels": torch.tensor([1])}


@pytest.mark.parametrize("kind", ["tuples", "lists", "images alone"])
def test_lists_of_images_and_targets(detector, kind):
    all_ = detector_images(5)
    batches = [all_[:2], all_[2:4], all_[4:]]
    loader = {
        "tuples": [(tuple(b), tuple(target() for _ in b)) for b in batches],
        "lists": [[b, [target() for _ in b]] for b in batches],
        "images alone": [(b,) for b in batches],
    }[kind]
    detector.train()
    gates = ab.gates(detector, loader)
    assert detector.training
    assert gates.images == 5
    assert_gates_of_detector_are(gates, detector_weights(detector, batches))


def test_our_own_loaders_of_detectors(detector, coco):
    loader = coco.loaders["test"]
    batches = [[image.float() / 255 for image in batch.images] for batch in loader.batches(0)]
    expected = detector_weights(detector, batches)
    for given in (loader, list(loader.batches(0))):
        gates = ab.gates(detector, given)
        assert gates.images == 5
        assert_gates_of_detector_are(gates, expected)
    assert loader.epoch == 0  # the loader is as it was


def test_the_first_images_of_a_detector(detector):
    all_ = detector_images(5)
    gates = ab.gates(detector, [(all_[:3], None), (all_[3:], None)], images=4)
    assert gates.images == 4
    assert_gates_of_detector_are(gates, detector_weights(detector, [all_[:3], all_[3:4]]))
