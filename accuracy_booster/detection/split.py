"""`Split`: the images and boxes of a data set that a training or a measurement uses."""

# N images, M annotations

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Split:
    """The used images and annotations of a split. Crowd boxes are included: measuring needs them.

    `boxes` are (x, y, width, height) as in the file. `corners` are (x1, y1, x2, y2), clipped to the
    image. Both are in pixels.
    """

    folder: Path
    image_ids: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N, 2]: height, width
    names: list[str]  # N paths below the folder
    images: np.ndarray  # int64 [M]: the index of the image
    labels: np.ndarray  # int64 [M], from 1
    boxes: np.ndarray  # float64 [M, 4]
    corners: np.ndarray  # float32 [M, 4]
    areas: np.ndarray  # float64 [M]
    crowd: np.ndarray  # bool [M]

    def of_images(self, kept: np.ndarray) -> Split:
        """The split with those images only that `kept` (bool [N]) selects."""
        number = np.cumsum(kept) - 1
        rows = kept[self.images]
        columns = ("labels", "boxes", "corners", "areas", "crowd")
        return replace(
            self,
            image_ids=self.image_ids[kept],
            sizes=self.sizes[kept],
            names=[name for name, keep in zip(self.names, kept.tolist(), strict=True) if keep],
            images=number[self.images[rows]],
            **{name: getattr(self, name)[rows] for name in columns},
        )

    def with_targets(self) -> np.ndarray:
        """bool [N]: which images have a box that is not a crowd box."""
        return np.bincount(self.images[~self.crowd], minlength=len(self.image_ids)) > 0


def truth(split: Split, category_ids: list[int], classes: tuple[str, ...]) -> dict[str, Any]:
    """A split as a COCO object for the evaluation, with boxes and areas as in the file.

    Annotations are numbered from 1, because COCO's evaluation takes an annotation with the id 0 for
    one that is missing.

    Args:
        category_ids, classes: the COCO id and the name of each label, from label 1 on.
    """
    rows = zip(
        *(split.images.tolist(), split.labels.tolist(), split.boxes.tolist()),
        *(split.areas.tolist(), split.crowd.tolist()),
        strict=True,
    )
    ids = split.image_ids.tolist()
    return {
        "info": {},
        "images": [
            {"id": id, "file_name": name, "height": height, "width": width}
            for id, name, (height, width) in zip(
                ids, split.names, split.sizes.tolist(), strict=True
            )
        ],
        "annotations": [
            {
                "id": number,
                "image_id": ids[image],
                "category_id": category_ids[label - 1],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for number, (image, label, box, area, crowd) in enumerate(rows, 1)
        ],
        "categories": [
            {"id": id, "name": name} for id, name in zip(category_ids, classes, strict=True)
        ],
    }
