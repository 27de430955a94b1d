"""Which source a name or a path means: built in, timm's, or a directory of one of three kinds."""

from __future__ import annotations

import os
from pathlib import Path

from accuracy_booster.data import image_files
from accuracy_booster.data.built_in import cifar_source, digits_source
from accuracy_booster.data.choices import BUILT_IN
from accuracy_booster.data.dataset_source import is_dataset_name
from accuracy_booster.data.folders import folder_source
from accuracy_booster.data.parquet import parquet_source
from accuracy_booster.data.source import Source
from accuracy_booster.data.split_names import name_splits
from accuracy_booster.data.tars import tar_source
from accuracy_booster.data.timm_sources import is_timms, timm_source
from accuracy_booster.errors import unknown


def full_name(data: str) -> str:
    """A name that means the same data everywhere: an absolute path, or a built-in name."""
    if data in BUILT_IN or not Path(data).expanduser().is_dir():
        return data
    return os.path.abspath(Path(data).expanduser())


def exists(data: str) -> bool:
    """Whether `find` has a source for the name, as far as can be told without reading."""
    return data in BUILT_IN or Path(data).expanduser().is_dir() or is_timms(data)


def refuse_absent(data: str) -> None:
    """Raise ValueError if the name is that of data sets which the caller must give again."""
    if is_dataset_name(data) and not Path(data).expanduser().is_dir():
        raise ValueError(
            f"the data are objects of your own code ({data}), which no file holds; give them "
            "again: data=(train, test) in Python, or other data by --data"
        )


def find(
    data: str,
    *,
    data_dir: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Source:
    """The source that `data` means: one of `BUILT_IN`, timm's PREFIX/NAME, or a directory.

    Args:
        data_dir: where built-in and timm's data sets are downloaded to.
        image_column, label_column: of Parquet files, where their schema leaves a choice.

    Raises:
        ValueError: if it means nothing, with the nearest names, or if the directory cannot be read.
    """
    if data == "digits":
        return digits_source()
    if data in ("cifar10", "cifar100"):
        return cifar_source(data, data_dir)
    path = Path(data).expanduser()
    if not path.is_dir():
        refuse_absent(data)
        if is_timms(data):
            return timm_source(data, data_dir)
        remedy = "or a directory of class folders or Parquet files, or timm's hfds/NAME, torch/NAME"
        if path.exists():
            raise ValueError(f"data {data!r} is a file; give the directory that holds it")
        raise unknown("data set", data, BUILT_IN, remedy)
    if _has_parquet(path):
        return parquet_source(path, image_column, label_column)
    may_be_tars = _has(path, "*.tar") and not name_splits(image_files.folders(path), str(path))
    return (tar_source(path) if may_be_tars else None) or folder_source(path)


def _has_parquet(path: Path) -> bool:
    """Whether the directory is one of Parquet files.

    They lie in it, one folder further down, or two (CONFIG/train/0000.parquet). Files two folders
    down do not count beside train/ and test/ folders, which then hold class folders.
    """
    if _has(path, "*.parquet") or _has(path, "*/*.parquet"):
        return True
    return not name_splits(image_files.folders(path), str(path)) and _has(path, "*/*/*.parquet")


def _has(path: Path, pattern: str) -> bool:
    """Whether a regular file fits the pattern and is no leftover, such as macOS's ._train.tar."""
    return any(
        file.is_file() and not any(map(image_files.is_leftover, file.relative_to(path).parts))
        for file in path.glob(pattern)
    )
