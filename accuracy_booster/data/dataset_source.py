"""Data sets that the caller gives as objects: torch's, torchvision's, Hugging Face's, or its own.

A data set has a length and gives items by number: (image, label), or a row of named columns.
"""

# C channels, H W space

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.utils.data import IterableDataset

from accuracy_booster.data.dataset_images import DatasetImages
from accuracy_booster.data.dataset_labels import labels_and_names
from accuracy_booster.data.source import Part, Source
from accuracy_booster.data.split_names import name_splits
from accuracy_booster.errors import shown

PREFIX = "dataset/"  # of the name that stands for such data in a configuration
GIVE = "data=(train, test), or one data set with validation=0.2"

SEVERAL = (
    'two data sets (train, test), a mapping {"train": ..., "validation": ..., "test": ...} of data '
    "sets, one data set with validation=0.2, a name or a directory"
)


def is_dataset_name(data: str) -> bool:
    """Whether the name stands for data that the caller must give as objects."""
    return data.startswith(PREFIX)


def given_splits(data: Any) -> dict[str, Any]:
    """The data set of each split: "train", "test" and "validation".

    Args:
        data: one data set, which is the training split; two, (train, test); or a mapping from the
            names of splits, such as "train", "val" and "test".

    Raises:
        ValueError: for anything else, a stream, or a mapping of other names.
    """
    if isinstance(data, Mapping):
        names = name_splits(list(map(str, data)), "data")
        if not names or len(names) < len(data):
            strange = [name for name in map(str, data) if name not in names.values()]
            raise ValueError(
                f"data has the splits {shown(list(data))}, of which {shown(strange)} are none; "
                'call them "train", "test" and "validation"'
            )
        splits = {split: data[name] for split, name in names.items()}
    elif isinstance(data, (tuple, list)):
        for number, part in enumerate(data, 1):
            if not _is_dataset(part):
                raise ValueError(
                    f"part {number} of data, {_called(part)}, is no data set, which has "
                    f"__getitem__ and __len__{_inner(part)}; give {SEVERAL}"
                )
        if len(data) != 2:
            raise ValueError(f"data has {len(data)} data sets in a row; give {SEVERAL}")
        splits = dict(zip(("train", "test"), data, strict=True))
    else:
        splits = {"train": data}
    for split, dataset in splits.items():
        _check(dataset, split)
    return splits


def dataset_name(data: Any) -> str:
    """What a configuration calls the data: `dataset/CLASS`."""
    first: Any = next(iter(given_splits(data).values()))
    while hasattr(first, "dataset") and hasattr(first, "indices"):  # of torch's Subset
        first = first.dataset
    return PREFIX + type(first).__name__


def _is_dataset(data: Any) -> bool:
    return hasattr(type(data), "__getitem__") and not isinstance(data, (str, tuple, Mapping))


def _called(part: Any) -> str:
    """A value for a message: itself if it is a plain one, otherwise its class."""
    plain = isinstance(part, (str, int, float, bool, type(None)))
    return shown(part) if plain else f"of the type {type(part).__name__}"


def _inner(part: Any) -> str:
    """What to give for a loader: the data set in it."""
    has = _is_dataset(getattr(part, "dataset", None))
    return f" (that of this {type(part).__name__} is its .dataset)" if has else ""


def _check(dataset: Any, split: str) -> None:
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or (
        hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")
    ):
        raise ValueError(
            f"the {split} data set, {kind}, is a stream: its images have no numbers, so a training "
            "on it could not go on where it was; give a map-style data set, with __getitem__ and "
            f"__len__{_inner(dataset)}"
        )
    if not _is_dataset(dataset):
        raise ValueError(
            f"data: the {split} split is {_called(dataset)}, and a data set has __getitem__ and "
            f"__len__; give {GIVE}, or a name or a directory"
        )
    try:
        len(dataset)
    except Exception as e:  # of any kind: NotImplementedError, TypeError
        raise ValueError(
            f"the {split} data set, {kind}, has no length ({type(e).__name__}); give one with "
            "__len__"
        ) from e


def dataset_source(
    splits: Mapping[str, Any],
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Source:
    """The source of data sets by split, as `given_splits` gives them.

    Args:
        name: of the data, for messages.
        image_column, label_column: the names of an item's columns, where items have names.
    """

    def read(split: str) -> Part:
        dataset, where = splits[split], f"{name.removeprefix(PREFIX)} ({split})"
        if not len(dataset):
            raise ValueError(f"the {split} split of {name} holds no images")
        images = DatasetImages(dataset, where, image_column, label_column)
        images.labels, names = labels_and_names(images)
        return images, names

    return Source(
        name,
        {split: partial(read, split) for split in splits},
        unsplit=set(splits) == {"train"},
        whole=f"is one data set; give {GIVE}",
    )
