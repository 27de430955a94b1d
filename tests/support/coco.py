"""A small data set in COCO's format, as files."""

# M boxes of an image, H W space

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from accuracy_booster.detection import DetectionData

SIZES = [(24, 32), (40, 20), (16, 16), (30, 50)]  # height, width


def image(id: int, height: int, width: int, name: str | None = None) -> dict:
    return {"id": id, "file_name": name or f"{id:04}.png", "height": height, "width": width}


def box(id: int, image_id: int, category_id: int, *bbox: float, **more) -> dict:
    found = {"id": id, "image_id": image_id, "category_id": category_id, "bbox": [*bbox]}
    return {**found, "area": bbox[2] * bbox[3] / 2, "iscrowd": 0, **more}


def content(first: int = 10) -> dict:
    """Four images, categories 3, 7 and 90, seven boxes of which one is a crowd's."""
    ids = [first + i for i in range(4)]
    return {
        "images": [image(id, *size) for id, size in zip(ids, SIZES, strict=True)],
        "categories": [
            {"id": 90, "name": "bear"},
            {"id": 3, "name": "cat"},
            {"id": 7, "name": "dog"},
        ],
        "annotations": [
            box(1, ids[0], 7, 2, 3, 10, 12),
            box(2, ids[1], 3, 0, 0, 20, 40),
            box(3, ids[0], 90, 5.5, 6.25, 8, 9),
            box(4, ids[2], 3, 1, 1, 6, 6),
            box(5, ids[3], 90, 4, 4, 30, 20),
            box(6, ids[3], 7, 0, 0, 50, 30, iscrowd=1, segmentation={"counts": [9], "size": [1]}),
            box(7, ids[2], 7, 8, 2, 5, 9, segmentation=[[1, 2, 3]]),
        ],
    }


def write(
    root: Path,
    pixels: Callable[..., np.ndarray],
    png: Callable[..., bytes],
    train: dict | None = None,
    val: dict | None = None,
    **splits: dict,
) -> Path:
    """A directory as COCO has it, with a file for each image; `pixels` and `png` make them."""
    splits = {"train2017": train or content(), "val2017": val or content(50), **splits}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for name, values in splits.items():
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(values))
        for entry in values["images"]:
            file = root / name / str(entry["file_name"])
            file.parent.mkdir(parents=True, exist_ok=True)
            size = int(entry["height"]), int(entry["width"])
            file.write_bytes(png(pixels(entry["file_name"], *size)))
    return root


def boxes_of(data: DetectionData, split: str = "train") -> dict[int, torch.Tensor]:
    """{image id: its boxes [M, 4]} of a split, without augmentation."""
    images = data.images[split]
    targets = [images[i][1] for i in range(len(images))]
    return {int(t["image_id"]): t["boxes"] for t in targets}
