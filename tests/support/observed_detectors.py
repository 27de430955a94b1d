"""Detectors with gates, images of several sizes for them, and the weights of their gates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import accuracy_booster as ab
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.ops import backend

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SIZES = ((40, 56), (48, 48), (56, 40))


def make_detector(**more):
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


def detector_weights(model, batches):
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


def assert_gates_of_detector_are(gates, expected):
    assert len(gates) == len(expected) > 0
    for gate, p in zip(gates.values(), expected.values(), strict=True):
        assert gate.count == len(p)
        torch.testing.assert_close(gate.mean, p.mean(0), **CLOSE)
        torch.testing.assert_close(gate.spread, p.std(0, correction=0), **CLOSE)
        assert gate.class_means is gate.class_counts is None
    assert max(float(gate.spread.max()) for gate in gates.values()) > 0.01


def detector_images(count):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *SIZES[i % 3], generator=generator) for i in range(count)]


def make_coco_folder(folder: Path) -> Path:
    """Five images in COCO's format."""
    (folder / "annotations").mkdir()
    (folder / "val").mkdir()
    rows, boxes = [], []
    for i in range(5):
        height, width = SIZES[i % 3]
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "val" / f"{i}.png")
        rows.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0, "category_id": 7}
        boxes.append({"id": i, "image_id": i, **box})
    content = {"images": rows, "annotations": boxes, "categories": [{"id": 7, "name": "cat"}]}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder
