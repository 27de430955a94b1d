"""A tiny table of detectors that start from classifiers, on coloured boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from accuracy_booster.reproduction import TABLES, Spec, Table
from accuracy_booster.reproduction.paper_tables import DETECTORS, detectors
from accuracy_booster.reproduction.specs import spec_of
from accuracy_booster.reproduction.table import AP

TABLE_9 = TABLES["9"]
TINY_DETECTORS = Table(
    *("n", "tiny detectors", "shapes"),
    detectors("timm/test_resnet", (DETECTORS[0], DETECTORS[2]), "pictures"),
    seeds=1,
    measures=AP,
    settings={
        **{"head": "c4", "min_size": (48,), "max_size": 64, "anchor_sizes": (8, 16, 32)},
        **{"rpn_post_nms_top_n_train": 16, "rpn_post_nms_top_n_test": 100},
        "box_score_thresh": 0.0,
    },
)
# the schedules of the two data sets, as in `budgets.STANDARD`
SCHEDULES: dict[str, dict[str, dict[str, Any]]] = {
    "shapes": {
        "short": {
            **{"epochs": 3, "batch_size": 2, "lr": 0.02, "warmup_steps": 0},
            "box_batch_size_per_image": 8,
        }
    },
    "pictures": {"short": {"epochs": 1, "batch_size": 4, "image_size": 32, "workers": 0}},
}


def detector_spec(label: str, table: Table = TINY_DETECTORS, budget: str = "short") -> Spec:
    """The run of the row with this label."""
    return spec_of(table, next(row for row in table.rows if row.label == label), budget, 0)


def picture(seed: int) -> Image.Image:
    """A red or a green box on noise."""
    pixels = np.random.default_rng(seed).integers(0, 80, (40, 56, 3), dtype=np.uint8)
    pixels[8:28, 10:40, seed % 2] = 240
    return Image.fromarray(pixels)


def write_shapes(
    folder: Path, years: Sequence[str] = ("2017",), sizes: tuple[int, int] = (4, 3)
) -> Path:
    """A data set in COCO's format: red and green boxes, one in each image."""
    (folder / "annotations").mkdir(parents=True)
    for year in years:
        for split, size in zip(("train", "val"), sizes, strict=True):
            (folder / f"{split}{year}").mkdir()
            images, boxes = [], []
            for i in range(size):
                picture(i).save(folder / f"{split}{year}" / f"{i}.png")
                images.append({"id": i, "file_name": f"{i}.png", "height": 40, "width": 56})
                box = {"bbox": [10, 8, 30, 20], "area": 600, "iscrowd": 0}
                boxes.append({"id": i, "image_id": i, "category_id": 1 + i % 2, **box})
            kinds = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
            content = {"images": images, "annotations": boxes, "categories": kinds}
            path = folder / "annotations" / f"instances_{split}{year}.json"
            path.write_text(json.dumps(content))
    return folder


def write_data(folder: Path) -> None:
    """Both data sets: `shapes` to detect, and `pictures` to classify."""
    write_shapes(folder / "shapes")
    for split, size in (("train", 4), ("test", 2)):
        for k, name in enumerate(("green", "red")):
            (folder / "pictures" / split / name).mkdir(parents=True)
            for i in range(size):
                picture(2 * i + k).save(folder / "pictures" / split / name / f"{i}.png")
