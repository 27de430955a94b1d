"""COCO's 12 numbers of a detector, computed by faster-coco-eval from the truth and detections."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from accuracy_booster.errors import shown

NUMBERS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


@dataclass(frozen=True)
class DetectionMetrics:
    """Average precision (AP) and average recall (AR) in %, as COCO defines them.

    A number is None if no box of the truth counts for it, where COCO gives -1.

    Args:
        ap: the mean over classes and the IoU thresholds 0.50, 0.55, ..., 0.95.
        ap50, ap75: at one IoU threshold, 0.50 or 0.75.
        ap_small, ap_medium, ap_large: of objects below 32 x 32 pixels, up to 96 x 96, and above.
        ar1, ar10, ar100: recall with at most that many detections of a class in an image.
        ar_small, ar_medium, ar_large: recall of objects of these sizes, with 100 detections.
        images: the number of images in the truth.
        by_class: AP of each class; not part of `to_dict`.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    images: int
    by_class: Mapping[str, float | None] = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, float | None]:
        """The 12 numbers and `images`, by name."""
        values = asdict(self)
        del values["by_class"]
        return values


def coco_metrics(
    truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]]
) -> DetectionMetrics:
    """The numbers that pycocotools gives; 0 where there is no detection at all.

    The arguments are not changed. The annotations get new ids, because COCO's evaluation never
    counts a box with the id 0 as found.

    Args:
        truth: a COCO object with images, categories and annotations. An annotation has image_id,
            category_id, bbox (x, y, width, height in pixels), and may have area (by default the
            box's) and iscrowd (by default 0).
        results: {image_id, category_id, bbox, score} of each detection. Among detections of the
            same score, an earlier one counts first.

    Raises:
        ValueError: if faster-coco-eval is not installed, the truth has no image, or a detection has
            an unknown image or category or is not finite.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise ValueError(
            "measuring a detector needs faster-coco-eval; "
            'install it with: pip install "accuracy-booster[detection]"'
        ) from None
    images = [{"id": image["id"]} for image in truth["images"]]
    categories = [{"id": c["id"], "name": c["name"]} for c in truth["categories"]]
    if not images:
        raise ValueError("the truth has 0 images; at least one is needed")
    boxes = [_annotation(i, a) for i, a in enumerate(truth["annotations"], 1)]
    known = COCO({"images": images, "categories": categories, "annotations": boxes})
    found = [_detection(result, known.imgs, known.cats) for result in results]
    evaluator = COCOeval_faster(known, known.loadRes(found), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    numbers = {
        name: _percent(value) for name, value in zip(NUMBERS, evaluator.stats[:12], strict=True)
    }
    # [thresholds, recalls, classes, areas, numbers of detections]: of all areas (0) and the largest
    # number of detections (-1)
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    names = _names(categories)
    by_class = {
        names[id]: _percent(_mean(precision[:, :, i]))
        for i, id in enumerate(evaluator.params.catIds)
    }
    return DetectionMetrics(**numbers, images=len(known.imgs), by_class=by_class)


def _annotation(number: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of what the evaluation reads of an annotation, because it writes into it."""
    _, _, width, height = given["bbox"]
    return {
        "id": number,
        "image_id": given["image_id"],
        "category_id": given["category_id"],
        "bbox": list(given["bbox"]),
        "area": given.get("area", width * height),
        "iscrowd": int(given.get("iscrowd", 0)),
    }


def _detection(
    given: Mapping[str, Any], images: Mapping[int, Any], categories: Mapping[int, Any]
) -> dict[str, Any]:
    """A checked copy of a detection.

    Raises:
        ValueError: for an unknown image or category, or a number that is not finite.
    """
    for key, known in (("image_id", images), ("category_id", categories)):
        if given[key] not in known:
            raise ValueError(
                f"a detection has {key} {shown(given[key])}, which is none of the truth's "
                f"{len(known)}; measure it on the data that it was made from"
            )
    box, score = [float(value) for value in given["bbox"]], float(given["score"])
    # NaN would count as found, because it is not below any threshold
    if not all(map(math.isfinite, (*box, score))):
        raise ValueError(
            f"a detection in image {given['image_id']} has bbox={box} and score={score}; they must "
            "be finite; the network's weights may have diverged"
        )
    return {
        "image_id": given["image_id"],
        "category_id": given["category_id"],
        "bbox": box,
        "score": score,
        "segmentation": [],  # without it the evaluation makes one from each box
    }


def _names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """The names of categories by id. A name that several categories have gets the id added."""
    count = Counter(category["name"] for category in categories)
    return {
        c["id"]: c["name"] if count[c["name"]] == 1 else f"{c['name']} ({c['id']})"
        for c in categories
    }


def _mean(values: np.ndarray) -> float:
    """The mean of the values that COCO counts, which are not -1; -1 if there are none."""
    counted = values[values > -1]
    return float(counted.mean()) if len(counted) else -1.0


def _percent(value: float) -> float | None:
    """A number of COCO in %; None for -1."""
    return None if value == -1 else 100 * float(value)
