"""Selects the images and annotations of a split that are used, and tells what is left out.

Used by `loaders.load_coco`, on a file that `coco.read_coco` has checked.
"""

# N images, M annotations

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from accuracy_booster.data.image_files import same_name
from accuracy_booster.detection.coco import Coco
from accuracy_booster.detection.split import Split
from accuracy_booster.errors import shown
from accuracy_booster.progress import printable

# Pixels. A box that is thinner than this has a width of 0 in float32 after a detector has scaled
# it. torchvision's detectors then refuse to train.
THINNEST = 0.01


def select(
    coco: Coco, folder: Path, labels: Mapping[int, int], name: str, most_bad: int
) -> tuple[Split, list[str]]:
    """The used part of a file, and a line for each kind of annotation that is left out or changed.

    Args:
        folder: of the images.
        labels: {category id: label}, for all categories of the file.
        name: of the split, for messages.
        most_bad: how many annotations may be left out because they have no image, no category or
            no area.

    Raises:
        ValueError: if there are more of them. The message has the kinds, counts and first cases.
    """
    images, known = _image_indices(coco)
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


def _image_indices(coco: Coco) -> tuple[np.ndarray, np.ndarray]:
    """The index of each annotation's image (0 if there is none), and whether there is one."""
    order = np.argsort(coco.image_ids)
    places = np.searchsorted(coco.image_ids[order], coco.annotation_images)
    numbers = order[places.clip(max=len(order) - 1)]
    known = coco.image_ids[numbers] == coco.annotation_images
    return np.where(known, numbers, 0), known


def _clipped(coco: Coco, images: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners, clipped to the image (float32 [M, 4]), and how far outside they were [M].

    Args:
        images, known: as `_image_indices` gives them.
    """
    edges = np.tile(coco.sizes[images][:, ::-1], 2).astype(np.float64)  # width, height, twice
    corners = np.concatenate([coco.boxes[:, :2], coco.boxes[:, :2] + coco.boxes[:, 2:]], axis=1)
    within = corners.clip(0, edges)
    over = np.abs(corners - within).max(1, initial=0) * known
    return within.astype(np.float32), over


def _case(coco: Coco, chosen: np.ndarray) -> str:
    """The first of the chosen annotations, in words."""
    row = int(chosen.argmax())
    box = ", ".join(f"{value:g}" for value in coco.boxes[row])
    return (
        f"annotation {printable(shown(coco.annotation_ids[row]))} (image_id "
        f"{coco.annotation_images[row]}, category_id {coco.annotation_categories[row]}, bbox "
        f"[{box}])"
    )


def drop_empty(split: Split, name: str) -> tuple[Split, list[str]]:
    """A training split without the images that have no box to learn from, and a line on them.

    Raises:
        ValueError: if no image has such a box.
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
        if actual is None and not os.path.exists(paths[-1]):  # some file systems ignore case
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
