"""A tiny data set in COCO's format, coloured rectangles, and trainings on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# no norm may have the weight zero, which would silence what follows; a warning tells of it
NO_DEAD_NORMS = pytest.mark.filterwarnings(
    "error:.*weight (is )?zero", "ignore:the batch norm of the gate"
)
CLASSES = {3: "red", 7: "green", 20: "blue"}  # ids with gaps
COLOURS = {3: (220, 30, 30), 7: (30, 200, 60), 20: (40, 60, 230)}

Annotations = dict[str, Any]


def make_coco(
    root: Path,
    *,
    train: int = 10,
    val: int = 3,
    size: tuple[int, int] | None = None,
    change: Callable[[Annotations], Any] | None = None,
) -> Path:
    """A directory with train2017/, val2017/ and their files of annotations.

    Images are PNG files of 40 to 64 pixels with one or two rectangles. The first of each split has
    a crowd box beside them; the last of the training images has no box.

    Args:
        size: (height, width) of all images.
        change: what is done to the training annotations before they are written.
    """
    draw = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        content: Annotations = {
            "images": [],
            "annotations": [],
            "categories": [{"id": id, "name": name} for id, name in CLASSES.items()],
        }
        (root / f"{split}2017").mkdir()
        for number in range(count):
            height, width = size or (int(v) for v in draw.integers(40, 65, 2))
            pixels = draw.integers(90, 160, (height, width, 3)).astype(np.uint8)
            name, own = f"{number:03}.png", 10 + 3 * number
            boxes = 0 if split == "train" and number + 1 == count else 1 + number % 2
            for box in range(boxes):
                w, h = (int(v) for v in draw.integers(10, 22, 2))
                x, y = int(draw.integers(0, width - w)), int(draw.integers(0, height - h))
                category = list(CLASSES)[(number + box) % 3]
                pixels[y : y + h, x : x + w] = COLOURS[category]
                _annotate(content, own, category, (x, y, w, h))
            if number == 0:
                _annotate(content, own, 7, (1, 1, 30, 30), crowd=1)
            Image.fromarray(pixels).save(root / f"{split}2017" / name)
            content["images"].append(
                {"id": own, "file_name": name, "height": height, "width": width}
            )
        if change is not None and split == "train":
            change(content)
        file = root / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(content))
    return root


def _annotate(
    content: Annotations, image: int, category: int, box: tuple[int, ...], crowd: int = 0
) -> None:
    content["annotations"].append(
        {
            **{"id": len(content["annotations"]) + 1, "image_id": image, "category_id": category},
            **{"bbox": list(box), "area": box[2] * box[3], "iscrowd": crowd},
        }
    )


def options(data: Path, output: Path, **more: Any) -> dict[str, Any]:
    """A training of two seconds: 2 epochs of 3 steps of 3 images, the smallest network."""
    return {
        **{"backbone": "resnet8", "head": "c4", "block": "ab", "data": str(data)},
        **{"output": str(output), "epochs": 2, "batch_size": 3, "lr": 0.01, "device": "cpu"},
        **{"warmup_steps": 2, "min_size": (40,), "max_size": 64, "anchor_sizes": (8, 16, 32)},
        **{"rpn_post_nms_top_n_train": 30, "rpn_post_nms_top_n_test": 60},
        **{"box_batch_size_per_image": 16, "box_score_thresh": 0.0, "seed": 3},
        **more,
    }


# with a feature pyramid, on a network of four stages
PYRAMID = {"backbone": "timm/test_resnet", "head": "fpn", "anchor_sizes": (8, 12, 16, 24, 32)}


def words(command: str, given: dict[str, Any]) -> list[str]:
    """The command line of these options."""

    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return [*command.split(), *(f"--{name}={text(value)}" for name, value in given.items())]
