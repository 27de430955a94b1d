"""Random boxes as COCO objects, and detections near them."""

from __future__ import annotations

from typing import Any

import numpy as np

Truth = dict[str, Any]
Results = list[dict[str, Any]]


def random_case(seed: int, images: int = 12, crowds: bool = False, most: int = 12) -> Truth:
    """Boxes of all three COCO sizes; ids with gaps; some images have none, so has a category."""
    draw = np.random.default_rng(seed)
    truth: Truth = {
        "images": [{"id": 7 * i + 3, "height": 400, "width": 400} for i in range(images)],
        "categories": [{"id": c, "name": f"class {c}"} for c in (1, 4, 9, 90)],
        "annotations": [],
    }
    for image in truth["images"]:
        for _ in range(draw.integers(0, most)):
            size = draw.choice([12, 60, 180], 2) * draw.uniform(0.6, 1.4, 2)
            box = [*draw.uniform(0, 200, 2).tolist(), *size.tolist()]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": int(draw.choice([1, 4, 9])),
                    "bbox": box,
                    "area": float(size.prod() * draw.uniform(0.4, 1)),
                    "iscrowd": int(crowds and draw.random() < 0.3),
                }
            )
    return truth


def jittered(truth: Truth, seed: int, noise: float = 0.1, per_box: int = 2) -> Results:
    """Boxes near the true ones, some of another category, in a random order."""
    draw = np.random.default_rng(seed)
    known = [category["id"] for category in truth["categories"]]
    results = []
    for a in truth["annotations"]:
        for _ in range(per_box):
            x, y, w, h = a["bbox"]
            dx, dy, dw, dh = draw.normal(0, noise, 4)
            wrong = draw.random() < 0.2
            results.append(
                {
                    "image_id": a["image_id"],
                    "category_id": int(draw.choice(known)) if wrong else a["category_id"],
                    "bbox": [x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)],
                    "score": float(draw.random()),
                }
            )
    return [results[i] for i in draw.permutation(len(results))]
