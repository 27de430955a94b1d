"""Directories of Parquet files, as Hugging Face `datasets`, pandas, Polars and Spark write them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from accuracy_booster.data import columns
from accuracy_booster.data.encoded_images import EncodedImages
from accuracy_booster.data.image_files import files as find_files
from accuracy_booster.data.source import Names, Part, Source, Unlabelled
from accuracy_booster.data.split_names import name_splits


def parquet_source(path: Path, image_column: str | None, label_column: str | None) -> Source:
    """The splits of `train-00000-of-00002.parquet`, ... or of `train/0000.parquet`, ...

    The images of a split are in memory, encoded.

    Raises:
        ValueError: if no file is named after a split, or if there are several data sets.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    for file in find_files(path, ".parquet"):
        stem = _first_word(file.stem)
        # Spark writes a folder train.parquet with part-00000.parquet in it
        folder = file.parent.name.lower()
        folder = _first_word(folder) if folder.endswith(".parquet") else folder
        files[stem if name_splits([stem]) else folder].append(file)
    splits = name_splits(list(files), str(path))
    for split in splits.values():
        folders = sorted({str(file.parent.relative_to(path)) for file in files[split]})
        if len(folders) > 1:
            raise ValueError(
                f"{path} holds several data sets with a {split} split, in "
                f"{', '.join(folders[:4])}; give one of these folders"
            )
    if not splits:
        names = ", ".join(sorted(files)[:5])
        raise ValueError(f"{path} has Parquet files, but none is named train, val or test: {names}")

    def read(split: str) -> Part:
        trained = files[splits["train"]] if split != "train" and "train" in splits else []
        return _read(path, splits[split], files[splits[split]], trained, image_column, label_column)

    return Source(str(path), {split: partial(read, split) for split in splits})


def _first_word(name: str) -> str:
    return re.split(r"[-_.]", name)[0].lower()


class _ReadRow:
    """`read` of `EncodedImages` for the image columns of shards, of bytes or of {bytes, path}."""

    def __init__(self, shards: Sequence[Any], folder: Path):
        self.shards, self.folder = list(shards), folder
        self.ends = list(accumulate(len(shard) for shard in shards))

    def __call__(self, index: int) -> bytes | str:
        shard = bisect_right(self.ends, index)
        start = self.ends[shard] - len(self.shards[shard])
        value = self.shards[shard][index - start].as_py()
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return _below(self.folder, value["path"])
            value = value.get("bytes")
        if value is not None and not isinstance(value, bytes):  # text would be taken for a path
            raise ValueError(f"its column holds {type(value).__name__}, and not bytes")
        return value if value is not None else b""


def _below(folder: Path, name: object) -> str:
    """The path of a file that a row names, below the folder of the data.

    Raises:
        ValueError: if it lies elsewhere. A data set of somebody else must not choose which files of
            this machine are read.
    """
    kinds = PurePosixPath, PureWindowsPath
    if not isinstance(name, str):
        raise ValueError(f"its path is {type(name).__name__}, and not text")
    if any(kind(name).anchor or ".." in kind(name).parts for kind in kinds):
        raise ValueError(f"its path {name!r} leads out of the folder of the data, {folder}")
    return str(folder / name)


def _read(
    path: Path,
    split: str,
    files: Sequence[Path],
    trained: Sequence[Path],
    image_column: str | None,
    label_column: str | None,
) -> Part:
    """A split's images and class names. The training split's files, `trained`, name the columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schemas = [pq.read_schema(file) for file in files]
        if trained:
            known = columns.choose(pq.read_schema(trained[0]), image_column, label_column)[1]
            if known is not None and known not in schemas[0].names:
                raise Unlabelled(f"the {split} split of {path} has no label column ({known!r})")
            label_column = known or label_column
        image, label, names = columns.choose(schemas[0], image_column, label_column)
        if label is None:
            raise ValueError(columns.no_labels(schemas[0]))
        _check_shards(path, files, schemas, image, label)
        tables = [pq.read_table(file, columns=[image, label]) for file in files]
        values = [value for table in tables for value in table[label].to_pylist()]
    except (pa.ArrowException, OSError, UnicodeError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ValueError(f"cannot read the Parquet files of {path}: {reason}") from e
    found = columns.numbers_of(values, names, f"column {label!r} of {path}, {split},")
    if found is None:
        raise Unlabelled(
            f"the {split} split of {path} has no labels: in column {label!r} all are -1 or missing"
        )
    labels, names = found
    shards = [table[image] for table in tables]
    numbers = torch.tensor(labels, dtype=torch.int64)
    return EncodedImages(_ReadRow(shards, path), numbers, f"{path.name}/{split}"), names


def _check_shards(
    path: Path, files: Sequence[Path], schemas: Sequence[Any], image: str, label: str
) -> None:
    """Raise ValueError unless all shards have both columns and the same kind of labels."""
    kinds: dict[str, str] = {}
    names: Names = None
    for file, schema in zip(files, schemas, strict=True):
        for name in (image, label):
            if name not in schema.names:
                raise ValueError(
                    f"cannot read the Parquet files of {path}: {files[0].name} has a column "
                    f"{name!r} and {file.name} has none; write them with the same columns"
                )
        own = columns.choose(schema, image, label)[2]
        names = own if schema is schemas[0] else names
        if own != names:
            both = " and ".join(
                f"{', '.join(list(n or ())[:3]) or 'none'} in {f.name}"
                for n, f in ((names, files[0]), (own, file))
            )
            raise ValueError(
                f"cannot read the Parquet files of {path}: the class names of column {label!r} "
                f"differ: {both}; write the files with the same names in the same order"
            )
        if kind := columns.kind_of_labels(schema.field(label).type):
            kinds.setdefault(kind, file.name)
    if len(kinds) > 1:
        have = " and ".join(f"{kind} in {name}" for kind, name in kinds.items())
        raise ValueError(
            f"cannot read the Parquet files of {path}: column {label!r} holds {have}; write its "
            "labels in one way"
        )
