"""Measures a detector on the images of a split, in one or several processes: COCO's 12 numbers."""

# N detections, H W space

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from accuracy_booster.detection.metrics import DetectionMetrics, coco_metrics
from accuracy_booster.surgery.modes import in_eval_mode

if TYPE_CHECKING:
    from accelerate import Accelerator

    from accuracy_booster.data.batches import Loader
    from accuracy_booster.detection.batches import DetectionBatch
    from accuracy_booster.detection.loaders import DetectionData

# the detections of an image: its COCO id, boxes [N, 4] (x1, y1, x2, y2), scores [N], labels [N]
Found = tuple[int, np.ndarray, np.ndarray, np.ndarray]


@torch.no_grad()
def measure(
    model: nn.Module,
    loader: Loader,
    data: DetectionData,
    split: str,
    accelerator: Accelerator,
    on_batch: Callable[[DetectionBatch], None] = lambda batch: None,
    *,
    max_detections: int = 100,
    results: list[dict[str, Any]] | None = None,
) -> DetectionMetrics:
    """Pass the images of `loader` through a detector and compare with `data.truth(split)`.

    The model is in eval mode meanwhile. The processes share the images, and each returns the
    numbers of all images. torchvision's detectors pad the images of a batch to one size, which
    changes their detections a little. So the numbers are independent of the processes only where
    batches have one image. Images that cannot be read are left out of the truth too, so their boxes
    do not count as missed.

    Args:
        model: as torchvision's detectors: it takes a list of images, float [3, H, W] in 0..1, and
            gives a list of {boxes, labels, scores}, where label k is `data.classes[k - 1]`.
        split: "train" or "val".
        on_batch: called after each batch.
        max_detections: how many detections of an image count, those of the highest scores.
        results: a list that receives the detections in COCO's format of results.

    Raises:
        ValueError: if no image can be read, the model gives a label that the data do not have or
            boxes that are not finite, or faster-coco-eval is not installed.
    """
    from accelerate.utils import gather_object

    from accuracy_booster.training.processes import share_buffers

    if accelerator.num_processes > 1:
        share_buffers(model)
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    found: list[Found] = []
    reasons: list[str] = []
    with in_eval_mode(model):
        batches = loader.batches(0, **share, device=accelerator.device)
        for batch in cast("Iterator[DetectionBatch]", batches):
            if batch.images:
                with accelerator.autocast():
                    outputs = detections(model, batch.images)
                for target, output in zip(batch.targets, outputs, strict=True):
                    found.append((int(target["image_id"]), *_best(output, max_detections)))
            reasons.extend(batch.unreadable.values())
            on_batch(batch)
    if accelerator.num_processes > 1:
        found, reasons = gather_object(found), gather_object(reasons)
    if not found:
        why = f"; the first: {reasons[0]}" if reasons else ""
        raise ValueError(f"none of {len(loader.dataset)} images of {data.name} could be read{why}")
    by_image = {image[0]: image for image in found}
    made = [
        result
        for _, image in sorted(by_image.items())
        for result in coco_results(image, data.category_ids)
    ]
    if results is not None:
        results += made
    return coco_metrics(_only(data.truth(split), by_image), made)


def detections(model: nn.Module, images: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The outputs {boxes, labels, scores} of a detector in eval mode for images uint8 [3, H, W].

    Raises:
        ValueError: if the model's output is not that of torchvision's detectors.
    """
    outputs = model([image.float() / 255 for image in images])
    if not isinstance(outputs, (list, tuple)) or not all(
        isinstance(output, Mapping) and {"boxes", "labels", "scores"} <= set(output)
        for output in outputs
    ):
        raise ValueError(
            f"{type(model).__name__} gives {type(outputs).__name__}; a detector gives a list with "
            "{boxes, labels, scores} of each image; ab.detection.faster_rcnn makes one"
        )
    return list(outputs)


def _best(
    output: Mapping[str, torch.Tensor], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The boxes, scores and labels of the `count` highest scores, in the order of the model."""
    boxes, scores = (output[key].cpu().double().numpy() for key in ("boxes", "scores"))
    labels = output["labels"].cpu().numpy()
    if len(scores) > count:
        kept = np.sort(np.argsort(-scores, kind="stable")[:count])
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    return boxes, scores, labels


def coco_results(image: Found, category_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The detections of an image in COCO's format, where `bbox` is (x, y, width, height).

    Args:
        category_ids: the COCO id of each label, from label 1 on.

    Raises:
        ValueError: for a label that has no category.
    """
    number, boxes, scores, labels = image
    for (x1, y1, x2, y2), score, label in zip(
        boxes.tolist(), scores.tolist(), labels.tolist(), strict=True
    ):
        if not 1 <= label <= len(category_ids):
            raise ValueError(
                f"the detector gives label {label}, and the data have {len(category_ids)} classes, "
                "labels from 1; it was made for other classes"
            )
        yield {
            "image_id": number,
            "category_id": category_ids[label - 1],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }


def _only(truth: Mapping[str, Any], images: Mapping[int, Any]) -> dict[str, Any]:
    """The part of the truth that belongs to some images, by id."""
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in images],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in images],
    }
