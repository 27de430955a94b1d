"""Small images of one size are decoded once, and then kept in memory. `loaders` decides by this."""

# N images, H W space

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from accuracy_booster.data.choices import SMALL
from accuracy_booster.data.dataset_images import DatasetImages
from accuracy_booster.data.encoded_images import EncodedImages
from accuracy_booster.data.images import Images, TensorImages, UnreadableImage
from accuracy_booster.data.pixels import upright_size
from accuracy_booster.progress import printable


def native_size(images: Images, samples: int = 32) -> tuple[int, int] | None:
    """(H, W) if the images are small and of one size, as far as `samples` of them tell; else None.

    Raises:
        ValueError: if none of the samples can be read.
    """
    if isinstance(images, TensorImages):
        return images.images.shape[2], images.images.shape[3]
    if isinstance(images, DatasetImages):
        return _only_small(set(images.sizes(samples)))
    assert isinstance(images, EncodedImages)
    sizes, reasons = set(), []
    for index in np.linspace(0, len(images) - 1, min(samples, len(images))).astype(int):
        try:
            with images.open(int(index)) as image:
                sizes.add(upright_size(image))
        except UnreadableImage as e:
            reasons.append(str(e))  # it is reported when the images are read
    if not sizes:
        some = f" that were tried, of {len(images)}," if len(reasons) < len(images) else ""
        raise ValueError(
            f"none of {len(reasons)} images{some} of {printable(images.source)} can be read; the "
            f"first: {reasons[0]}"
        )
    return _only_small(sizes)


def _only_small(sizes: set[tuple[int, int]]) -> tuple[int, int] | None:
    """The one size of small images; None for several sizes, or a large one."""
    (size, *others) = sizes
    return size if not others and max(size) <= SMALL else None


def preloaded(
    images: Images, size: tuple[int, int], limit: int = 1 << 30, classes: Sequence[str] = ()
) -> Images:
    """Decode all images of `size` once, with a progress bar, if they fit in `limit` bytes.

    If one turns out to have another size, the images are returned as they were, and so are those of
    a data set whose own transform gives another image each time. Unreadable images are left out and
    listed in `unreadable`. A warning names each of the `classes` that has no image left.

    Raises:
        ValueError: if no image can be read.
    """
    height, width = size
    if not isinstance(images, (EncodedImages, DatasetImages)):
        return images
    if len(images) * images.channels * height * width > limit:
        return images
    if isinstance(images, DatasetImages) and images.is_random():
        return images
    from accuracy_booster.progress import track

    decoded = torch.empty(len(images), images.channels, height, width, dtype=torch.uint8)
    kept: list[int] = []
    unreadable: dict[int, str] = {}
    for index in track(range(len(images)), f"Reading {images.source}"):
        try:
            image, _ = images[index]
        except UnreadableImage as e:
            unreadable[index] = str(e)
            continue
        if image.shape[1:] != (height, width):
            return images
        decoded[index] = image
        kept.append(index)
    if not kept:
        raise ValueError(
            f"none of {len(images)} images of {printable(images.source)} can be read; the first: "
            f"{next(iter(unreadable.values()))}"
        )
    if unreadable:
        found = TensorImages(decoded[kept], images.labels[kept])
        found.unreadable = tuple(unreadable.values())
        _name_lost_classes(images, found, unreadable, classes)
    else:
        found = TensorImages(decoded, images.labels)
    if images.names is not None:
        found.names = [images.names[index] for index in kept]
    return found


def _name_lost_classes(
    images: EncodedImages | DatasetImages,
    kept: Images,
    unreadable: dict[int, str],
    classes: Sequence[str],
) -> None:
    """Warn of each class none of whose images can be read."""
    lost: dict[int, list[str]] = {}
    left = set(kept.labels.tolist())
    for index, reason in unreadable.items():
        if (label := int(images.labels[index])) not in left:
            lost.setdefault(label, []).append(reason)
    for label, reasons in sorted(lost.items())[:5]:
        name = classes[label] if label < len(classes) else label
        warnings.warn(
            f"class {printable(str(name))} of {printable(images.source)} is left without images: "
            f"none of its {len(reasons)} can be read; the first: {reasons[0]}",
            stacklevel=2,
        )
