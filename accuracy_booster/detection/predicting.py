"""`predict`: what a detector finds in images, as values."""

# N detections, H W space

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from accuracy_booster.data.found_images import find_images
from accuracy_booster.data.picture_arrays import Picture
from accuracy_booster.data.pictures import pixels_of, read
from accuracy_booster.detection.measuring import detections
from accuracy_booster.surgery.modes import in_eval_mode


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector found in an image, the highest score first.

    Args:
        image: the path of the image, or its index among the given images.
        size: (H, W) of the upright image.
        boxes: float32 [N, 4], x1, y1, x2, y2 in pixels of the upright image, on the CPU.
        scores: float32 [N], 0..1.
        labels: int64 [N], from 1.
        names: the class of each box.
    """

    image: str | int
    size: tuple[int, int]
    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Numbers are the shortest decimals that give the same float32."""
        return {
            "image": self.image,
            "height": self.size[0],
            "width": self.size[1],
            "boxes": [_plain(box) for box in self.boxes],
            "scores": _plain(self.scores),
            "labels": self.labels.tolist(),
            "names": list(self.names),
        }


def _plain(values: torch.Tensor) -> list[float]:
    return [float(str(value)) for value in values.numpy()]


def predict(
    model: str | Path | nn.Module,
    images: Picture | Iterable[Picture],
    *,
    classes: Sequence[str] | None = None,
    threshold: float = 0.5,
    device: torch.device | str | None = None,
) -> Iterator[Prediction]:
    """What a detector finds, image by image. The model is in eval mode only meanwhile.

    Args:
        model: the directory of a run of `train`, or a module as torchvision's detectors: it takes a
            list of images, float [3, H, W] in 0..1, and gives a list of {boxes, labels, scores}.
        images: paths of files, of directories for all images below them, or patterns; PIL images;
            tensors, uint8 [3, H, W]; arrays, uint8 [H, W, 3]. Files and PIL images are turned
            upright.
        classes: the names of the labels from 1 on; by default the detector's own.
        threshold: the lowest score that counts, 0..1.
        device: the device that the model is moved to; by default it stays where it is.

    Raises:
        UnreadableImage: for a file that cannot be decoded.
        ValueError: for a path that does not exist, a directory without images, a tensor of another
            shape or type, a threshold out of range, or a label without a class.
    """
    check_threshold(threshold)
    if isinstance(model, (str, Path)):
        from accuracy_booster.detection.training import load

        model = load(model)
    classes = getattr(model, "classes", None) if classes is None else classes
    if classes is None:
        raise ValueError(
            f"this {type(model).__name__} does not know the names of its classes; pass classes=..."
        )
    if isinstance(images, (str, Path, Image.Image, torch.Tensor, np.ndarray)):
        images = [images]
    if device is not None:
        model.to(device)
    return _predict(model, images, classes, threshold)


def _predict(
    model: nn.Module, images: Iterable[Picture], classes: Sequence[str], threshold: float
) -> Iterator[Prediction]:
    for number, image in enumerate(images):
        if isinstance(image, (str, Path)):
            for path in find_images([image]):
                yield predict_one(model, read(path), path, classes, threshold)
        else:
            yield predict_one(model, pixels_of(image, number), number, classes, threshold)


def check_threshold(threshold: float) -> None:
    """Raise ValueError for a threshold that is not from 0 to 1."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must be from 0 to 1, such as 0.5")


@contextmanager
def _scores_from(model: nn.Module, threshold: float) -> Iterator[None]:
    """Lower the threshold of a torchvision detector, if it is higher, while in the context."""
    heads: Any = getattr(model, "roi_heads", None)
    before = getattr(heads, "score_thresh", None)
    if before is None or before <= threshold:
        yield
        return
    heads.score_thresh = threshold
    try:
        yield
    finally:
        heads.score_thresh = before


@torch.no_grad()
def predict_one(
    model: nn.Module,
    pixels: torch.Tensor,
    image: str | int,
    classes: Sequence[str],
    threshold: float = 0.5,
) -> Prediction:
    """What a detector finds in one image, uint8 [3, H, W], which is moved to the model's device.

    Args:
        image: the path or index that the prediction gets.

    Raises:
        ValueError: for a label without a class.
    """
    at = next(model.parameters(), torch.empty(0)).device
    with in_eval_mode(model), _scores_from(model, threshold):
        (output,) = detections(model, [pixels.to(at)])
    boxes, scores, labels = (output[key].cpu() for key in ("boxes", "scores", "labels"))
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= threshold]
    boxes, scores, labels = boxes[order].float(), scores[order].float(), labels[order]
    if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= len(classes):
        raise ValueError(
            f"the detector gives labels {int(labels.min())} to {int(labels.max())}, and there are "
            f"{len(classes)} classes, labels from 1; give the classes that it was made for"
        )
    names = [classes[label - 1] for label in labels.tolist()]
    height, width = pixels.shape[1:]
    return Prediction(image, (height, width), boxes, scores, labels, names)
