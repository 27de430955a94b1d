"""`ab.gates` of detectors: images of several sizes, with boxes in place of classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.cli import main
from accuracy_booster.ops import backend

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SIZES = ((40, 56), (48, 48), (56, 40))


def detector(**more):
    """A tiny detector, whose gates give other weights for each image."""
    torch.manual_seed(0)
    made = ab.detection.faster_rcnn(
        "timm/test_resnet", block="ab", num_classes=4, min_size=48, max_size=64, **more
    )
    with torch.no_grad():
        for tensor in made.parameters():
            if not tensor.any():  # timm starts the last norm of a residual branch at 0
                tensor.fill_(1)
        for gate in (m for m in made.modules() if isinstance(m, Gate)):
            for name, tensor in [*gate.named_parameters(), *gate.named_buffers()]:
                if tensor.is_floating_point():
                    noise = torch.randn(tensor.shape)
                    tensor.copy_(noise.abs() + 0.1 if "var" in name else noise)
    return made


def weights_by_hook(model, batches):
    """p[N, C] of each gate, in the order in which they ran: what comes out by what goes in."""
    found, hooks = {}, []

    def keep(name):
        def hook(_, args, y):
            # where the map is not next to 0 the quotient is exact enough
            x, y = args[0].double().flatten(2), y.double().flatten(2)
            best = x.abs().argmax(2, keepdim=True)
            found.setdefault(name, []).append((y.gather(2, best) / x.gather(2, best)).squeeze(2))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, Gate):
            hooks.append(module.register_forward_hook(keep(name)))
    model.eval()
    with torch.no_grad(), backend.using("unfused"):
        for images in batches:
            model(images)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(calls) for name, calls in found.items()}


def assert_gates_are(gates, expected):
    assert len(gates) == len(expected) > 0
    for gate, p in zip(gates.values(), expected.values(), strict=True):
        assert gate.count == len(p)
        torch.testing.assert_close(gate.mean, p.mean(0), **CLOSE)
        torch.testing.assert_close(gate.spread, p.std(0, correction=0), **CLOSE)
        assert gate.class_means is gate.class_counts is None
    assert max(float(gate.spread.max()) for gate in gates.values()) > 0.01


def images(count):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *SIZES[i % 3], generator=generator) for i in range(count)]


def target():
    return {"boxes": torch.tensor([[4.0, 4, 30, 30]]), "labels": torch.tensor([1])}


@pytest.fixture(scope="module")
def net():
    return detector()


@pytest.fixture
def data(tmp_path):
    """Five images in COCO's format."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    rows, boxes = [], []
    for i in range(5):
        height, width = SIZES[i % 3]
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / f"{i}.png")
        rows.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0, "category_id": 7}
        boxes.append({"id": i, "image_id": i, **box})
    content = {"images": rows, "annotations": boxes, "categories": [{"id": 7, "name": "cat"}]}
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return ab.detection.load_coco(tmp_path, splits=("val",))


@pytest.mark.parametrize("kind", ["tuples", "lists", "images alone"])
def test_lists_of_images_and_targets(net, kind):
    all_ = images(5)
    batches = [all_[:2], all_[2:4], all_[4:]]
    loader = {
        "tuples": [(tuple(b), tuple(target() for _ in b)) for b in batches],
        "lists": [[b, [target() for _ in b]] for b in batches],
        "images alone": [(b,) for b in batches],
    }[kind]
    net.train()
    gates = ab.gates(net, loader)
    assert net.training
    assert gates.images == 5
    assert_gates_are(gates, weights_by_hook(net, batches))


def test_our_own_loaders(net, data):
    loader = data.loaders["test"]
    batches = [[image.float() / 255 for image in batch.images] for batch in loader.batches(0)]
    expected = weights_by_hook(net, batches)
    for given in (loader, list(loader.batches(0))):
        gates = ab.gates(net, given)
        assert gates.images == 5
        assert_gates_are(gates, expected)
    assert loader.epoch == 0  # the loader is as it was


def test_the_first_images_alone(net):
    all_ = images(5)
    gates = ab.gates(net, [(all_[:3], None), (all_[3:], None)], images=4)
    assert gates.images == 4
    assert_gates_are(gates, weights_by_hook(net, [all_[:3], all_[3:4]]))


def test_gates_of_a_head_count_each_region():
    net = detector(head="c4", rpn_post_nms_top_n_test=6, rpn_nms_thresh=0.99)
    all_ = images(4)
    batches = [all_[:2], all_[2:]]
    gates = ab.gates(net, [(b, None) for b in batches])
    expected = weights_by_hook(net, batches)
    assert_gates_are(gates, expected)
    counts = [gate.count for gate in gates.values()]
    assert counts[0] == 4
    assert counts[-1] == 24  # 6 regions of each image
    assert gates.images == 4


def test_what_is_no_image_is_told(net):
    with pytest.raises(ValueError, match=r"FasterRCNN|Detector") as caught:
        ab.gates(net, [([torch.rand(3, 8, 8).long()], None)])
    assert "\n" not in str(caught.value)


def test_inspect_of_a_detector_is_refused_in_one_line(data, tmp_path, capsys):
    (tmp_path / "val").rename(tmp_path / "train")
    file = tmp_path / "annotations" / "instances_val.json"
    (tmp_path / "annotations" / "instances_train.json").write_bytes(file.read_bytes())
    file.rename(tmp_path / "v.json")
    run = tmp_path / "run"
    ab.detection.train(
        *("timm/test_resnet",),
        **{"data": str(tmp_path), "val_annotations": str(tmp_path / "v.json")},
        **{"val_images": str(tmp_path / "train"), "epochs": 1, "min_size": (48,), "max_size": 64},
        **{"output": str(run), "box_batch_size_per_image": 4, "rpn_post_nms_top_n_train": 4},
    )
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("accuracy-booster: error: ")
    assert "is of a detector" in last
    assert "ab.gates(ab.detection.load(RUN)" in last
