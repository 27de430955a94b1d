"""Which images and annotations of a split are used, and what is said about the others."""

# N images, M annotations that are used

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from accuracy_booster.data.image_files import same_name
from accuracy_booster.detection.coco import Coco
from accuracy_booster.errors import shown
from accuracy_booster.progress import printable

# Pixels. A thinner box has no width left in float32 once a detector has scaled it, and
# torchvision's detectors refuse to train then.
THINNEST = 0.01


@dataclass(frozen=True)
class Split:
    """What is used of a split. Crowd boxes are among the annotations: they count in measuring.

    `boxes` are as in the file, (x, y, width, height); `corners` are (x1, y1, x2, y2), clipped to
    the image.
    """

    folder: Path
    image_ids: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N, 2]: height, width
    names: list[str]  # N, below the folder
    images: np.ndarray  # int64 [M]: numbers of images
    labels: np.ndarray  # int64 [M], from 1
    boxes: np.ndarray  # float64 [M, 4]
    corners: np.ndarray  # float32 [M, 4]
    areas: np.ndarray  # float64 [M]
    crowd: np.ndarray  # bool [M]

    def of_images(self, kept: np.ndarray) -> Split:
        """The split with some of its images only: kept bool [N]."""
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
        """bool [N]: which images have a box that is no crowd's."""
        return np.bincount(self.images[~self.crowd], minlength=len(self.image_ids)) > 0


def decide(
    coco: Coco, folder: Path, labels: Mapping[int, int], name: str, most_bad: int
) -> tuple[Split, list[str]]:
    """What is used of a file, and a line for each kind of thing that is left out or changed.

    Args:
        folder: of the images.
        labels: {category id: label} of all categories of the file.
        name: of the split, for messages.
        most_bad: annotations of no image, no category or no area that are left out at most.

    Raises:
        ValueError: if there are more of them, with the kinds, counts and first cases.
    """
    images, known = _numbers(coco)
    labelled = np.isin(coco.annotation_categories, np.array([*labels], np.int64))
    corners, over = _clipped(coco, images, known)
    wide = (corners[:, 2:] - corners[:, :2] >= THINNEST).all(1) & (coco.areas >= 0)
    kinds = {
        "have an image_id that is in no image": ~known,
        "have a category_id that is in no category": known & ~labelled,
        "have no area within the image": known & labelled & ~wide,
    }
    used = known & labelled & wide
    told = [
        f"{bad.sum():,} of {len(bad):,} annotations {kind}, the first {_case(coco, bad)}"
        for kind, bad in kinds.items()
        if bad.any()
    ]
    if (count := int((~used).sum())) > most_bad:
        raise ValueError(
            f"{name}: {count:,} annotations of {printable(coco.file)} cannot be used, more than "
            f"bad_annotations={most_bad}: {'; '.join(told)}; correct the file, or allow more"
        )
    notes = [f"{name}: {line}; they are left out" for line in told]
    if (clipped := used & (over > 0)).any():
        notes.append(
            f"{name}: {clipped.sum():,} boxes reach past the edge of their image, by up to "
            f"{over[clipped].max():.3g} pixels, and are clipped; the first: {_case(coco, clipped)}"
        )
    split = Split(
        folder=folder,
        image_ids=coco.image_ids,
        sizes=coco.sizes,
        names=coco.names,
        images=images[used],
        labels=np.array([labels[c] for c in coco.annotation_categories[used].tolist()], np.int64),
        boxes=coco.boxes[used],
        corners=corners[used],
        areas=coco.areas[used],
        crowd=coco.crowd[used],
    )
    return split, notes


def _numbers(coco: Coco) -> tuple[np.ndarray, np.ndarray]:
    """Of each annotation: the number of its image, 0 where there is none; whether there is one."""
    order = np.argsort(coco.image_ids)
    places = np.searchsorted(coco.image_ids[order], coco.annotation_images)
    numbers = order[places.clip(max=len(order) - 1)]
    known = coco.image_ids[numbers] == coco.annotation_images
    return np.where(known, numbers, 0), known


def _clipped(coco: Coco, images: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners float32 [M, 4] within the image, and by how many pixels [M] they were outside."""
    edges = np.tile(coco.sizes[images][:, ::-1], 2).astype(np.float64)  # width, height, twice
    corners = np.concatenate([coco.boxes[:, :2], coco.boxes[:, :2] + coco.boxes[:, 2:]], axis=1)
    within = corners.clip(0, edges)
    over = np.abs(corners - within).max(1, initial=0) * known
    return within.astype(np.float32), over


def _case(coco: Coco, chosen: np.ndarray) -> str:
    """The first of some annotations, in words."""
    row = int(chosen.argmax())
    box = ", ".join(f"{value:g}" for value in coco.boxes[row])
    return (
        f"annotation {printable(shown(coco.annotation_ids[row]))} (image_id "
        f"{coco.annotation_images[row]}, category_id {coco.annotation_categories[row]}, bbox "
        f"[{box}])"
    )


def drop_empty(split: Split, name: str) -> tuple[Split, list[str]]:
    """A training split without the images that have no box to learn from, and a line that says so.

    Raises:
        ValueError: if no image has a box.
    """
    kept = split.with_targets()
    if kept.all():
        return split, []
    count, first = int((~kept).sum()), printable(split.names[int(kept.argmin())])
    if not kept.any():
        raise ValueError(
            f"{name}: none of {count:,} images has a box to learn from (crowd boxes do not count)"
        )
    line = (
        f"{name}: {count:,} of {len(kept):,} images have no box to learn from (crowd boxes do not "
        f"count) and are left out, the first {first}; empty_images='keep' trains on them as "
        "background"
    )
    return split.of_images(kept), [line]


def locate(split: Split, name: str) -> tuple[list[str], list[str], list[str]]:
    """The paths of a split's images, those of them that are not there, and a line about them.

    They stay in the data set, as images that cannot be read.

    Raises:
        ValueError: if none is there.
    """
    listings: dict[str, dict[str, str]] = {}
    paths, missing = [], []
    for file in split.names:
        below, _, last = file.rpartition("/")
        if below not in listings:
            listings[below] = _listing(split.folder / below)
        actual = listings[below].get(same_name(last))
        paths.append(str(split.folder / below / (actual or last)))
        if actual is None and not os.path.exists(paths[-1]):  # capitals may be all the same
            missing.append(paths[-1])
    if not missing:
        return paths, [], []
    first = printable(missing[0])
    if len(missing) == len(paths):
        raise ValueError(
            f"{name}: none of {len(paths):,} image files is there, the first {first}; give the "
            f"folder of the images as {name}_images"
        )
    line = (
        f"{name}: {len(missing):,} of {len(paths):,} image files are not there, the first {first}"
    )
    return paths, missing, [f"{line}; they count as images that cannot be read"]


def _listing(folder: Path) -> dict[str, str]:
    """The names of the files in a folder, by their one spelling."""
    try:
        return {same_name(name): name for name in os.listdir(folder)}
    except OSError:  # its files are then not there
        return {}


def truth(split: Split, category_ids: list[int], classes: tuple[str, ...]) -> dict[str, Any]:
    """A split as a COCO dict, for the evaluator: boxes and areas as in the file.

    Annotations are numbered from 1: pycocotools takes one whose id is 0 for one that is not there.
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
