"""The labels of a data set that the caller gives, and the names of its classes.

They are taken from what the data set keeps, where that is what its items have. Otherwise every item
is read once. `dataset_source` uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from accuracy_booster.data.dataset_images import DatasetImages, WrongItem
from accuracy_booster.data.images import UnreadableImage
from accuracy_booster.data.source import Names
from accuracy_booster.errors import shown
from accuracy_booster.progress import track

CHECKED = 8  # items whose labels are compared with those that the data set keeps
KEPT = ("targets", "labels", "_labels", "y")
MAY_READ = 10  # unreadable items in a row that are given up


def labels_and_names(images: DatasetImages) -> tuple[torch.Tensor, Names]:
    """The labels [N] int64, and the names of the classes; None where they are only numbered.

    Labels of text are numbered in the order of the alphabet.

    Raises:
        WrongItem: for a label that is no class number or name.
    """
    dataset = images.dataset
    labels = _kept(dataset, images.label_key)
    if labels is None or len(labels) != len(dataset) or not _same(images, labels):
        labels = _read(images)
    names = class_names(dataset, images.label_key)
    if any(isinstance(label, str) for label in labels):
        texts = [str(label) for label in labels]
        names = names if names and set(texts) <= set(names) else tuple(sorted(set(texts)))
        number = {name: i for i, name in enumerate(names)}
        return torch.tensor([number[text] for text in texts], dtype=torch.int64), names
    numbers = torch.tensor([_number(v, images.source) for v in labels], dtype=torch.int64)
    if names and len(numbers) and int(numbers.max()) >= len(names):
        names = None  # they are of other labels, as CIFAR-100's coarse ones
    return numbers, names


def _number(label: Any, source: str) -> int:
    """A class number.

    Raises:
        WrongItem: for anything that is no whole number.
    """
    if label is None:
        return -1
    value = (
        label.item()
        if isinstance(label, (torch.Tensor, np.generic, np.ndarray))
        and (int(np.prod(label.shape)) == 1)
        else label
    )
    if isinstance(value, (bool, int)) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise WrongItem(
        f"a label of {source} is {shown(label)}; a label is one class number from 0 up, or the "
        "name of a class"
    )


def _kept(dataset: Any, key: Any) -> Sequence[Any] | None:
    """The labels that a data set keeps, if it does; for torch's Subset and ConcatDataset too."""
    inner = getattr(dataset, "dataset", None)
    if inner is not None and hasattr(dataset, "indices"):
        of_all = _kept(inner, key)
        usable = of_all is not None and len(of_all) == len(inner)
        return [of_all[int(i)] for i in dataset.indices] if usable and of_all is not None else None
    if isinstance(parts := getattr(dataset, "datasets", None), (list, tuple)):
        found = [_kept(part, key) for part in parts]
        if any(f is None or len(f) != len(p) for f, p in zip(found, parts, strict=True)):
            return None
        return [label for labels in found if labels is not None for label in labels]
    if is_hugging_face(dataset) and key in dataset.column_names:
        return list(dataset.with_format(None)[key])
    labels = next((v for n in KEPT if (v := _attribute(dataset, n)) is not None), None)
    samples = _attribute(dataset, "samples")
    if labels is None and samples is not None and len(samples) and isinstance(samples[0], tuple):
        labels = [sample[-1] for sample in samples]
    if labels is None:
        return None
    labels = labels.tolist() if isinstance(labels, (torch.Tensor, np.ndarray)) else list(labels)
    change = getattr(dataset, "target_transform", None)
    return labels if change is None else [change(label) for label in labels]


def _attribute(dataset: Any, name: str) -> Any:
    """A sequence that the data set has under a name, or None."""
    value = getattr(dataset, name, None)
    return value if hasattr(value, "__len__") and hasattr(value, "__getitem__") else None


def _same(images: DatasetImages, labels: Sequence[Any]) -> bool:
    """Whether some items have the labels that the data set keeps."""
    for index in {int(i) for i in np.linspace(0, len(images) - 1, min(CHECKED, len(images)))}:
        try:
            found = images.item(index)[images.label_key]
        except UnreadableImage:
            continue
        found = found.item() if isinstance(found, (torch.Tensor, np.generic)) else found
        if found != labels[index]:
            return False
    return True


def _read(images: DatasetImages) -> list[Any]:
    """The label of every item; an item that cannot be read has the one before it."""
    labels: list[Any] = []
    lost = 0
    for index in track(range(len(images)), f"Reading the labels of {images.source}"):
        try:
            labels.append(images.item(index)[images.label_key])
            lost = 0
        except UnreadableImage:
            lost += 1
            if lost >= MAY_READ:
                raise
            labels.append(labels[-1] if labels else 0)
    return labels


def class_names(dataset: Any, key: Any) -> Names:
    """The names of the classes that a data set knows, in the order of their numbers."""
    inner = getattr(dataset, "dataset", None)
    if inner is not None and hasattr(dataset, "indices"):
        return class_names(inner, key)
    if isinstance(parts := getattr(dataset, "datasets", None), (list, tuple)) and parts:
        found = {class_names(part, key) for part in parts}
        if len(found) > 1:
            raise ValueError(
                "the parts of a ConcatDataset have other classes than one another, and the same "
                "number means other things; give parts with the same classes"
            )
        return found.pop()
    if is_hugging_face(dataset):
        names = getattr((dataset.features or {}).get(key), "names", None)
        return tuple(map(str, names)) if names else None
    names = _attribute(dataset, "classes")
    return tuple(map(str, names)) if names is not None and len(names) else None


def is_hugging_face(dataset: Any) -> bool:
    """Whether it is a `datasets.Dataset`, which need not be installed."""
    return all(hasattr(dataset, n) for n in ("column_names", "features", "with_format"))
