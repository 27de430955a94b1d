"""Directories of Parquet files as Hugging Face `datasets` writes them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.data.images import EncodedImages
from accuracy_booster.data.sources import Source, name_splits
from accuracy_booster.errors import unknown

Names = tuple[str, ...] | None


def parquet_source(path: Path, image_column: str | None, label_column: str | None) -> Source:
    """The splits of `train-00000-of-00002.parquet`, ... or `train/0000.parquet`, ...

    Columns come from the `datasets` schema in the file, else from their types, else by name. The
    encoded images of a split are held in memory.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(path.rglob("*.parquet")):
        stem = re.split(r"[-_.]", file.stem)[0].lower()
        files[stem if name_splits([stem]) else file.parent.name.lower()].append(file)
    splits = name_splits(list(files))
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

    def read(split: str):
        return _read(path, splits[split], files[splits[split]], image_column, label_column)

    return Source(str(path), {split: partial(read, split) for split in splits})


class _ReadRow:
    """`read` for an Arrow column of bytes, or of `{bytes, path}`."""

    def __init__(self, column: Any, folder: Path):
        self.column, self.folder = column, folder

    def __call__(self, index: int) -> bytes | str:
        value = self.column[index].as_py()
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return str(self.folder / value["path"])
            value = value.get("bytes")
        return value if value is not None else b""


def _read(path, split, files, image_column, label_column):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(files[0])
        image, label, names = _columns(schema, image_column, label_column)
        table = pa.concat_tables([pq.read_table(f, columns=[image, label]) for f in files])
    except (pa.ArrowException, OSError) as e:
        reason = str(e).splitlines()[0]
        raise ValueError(f"cannot read the Parquet files of {path}: {reason}") from e
    values = table[label].to_pylist()
    if any(value is None for value in values):
        raise ValueError(f"column {label!r} of {path}, {split}, has rows without a label")
    if isinstance(values[0] if values else 0, str):
        names = names or tuple(sorted(set(values)))
        index = {name: i for i, name in enumerate(names)}
        values = [index[value] for value in values]
    labels = torch.tensor(values, dtype=torch.int64)
    return EncodedImages(_ReadRow(table[image], path), labels, f"{path.name}/{split}"), names


def _columns(schema, image: str | None, label: str | None) -> tuple[str, str, Names]:
    """The image column, the label column, and the names of the classes if the file has them."""
    features = _features(schema)
    kinds = {name: f.get("_type") for name, f in features.items() if isinstance(f, dict)}
    images = [field.name for field in schema if _holds_images(field.type)]
    labels = [field.name for field in schema if _holds_labels(field.type)]
    for name, fit, what in ((image, images, "image"), (label, labels, "label")):
        if name is not None and name not in schema.names:
            raise unknown(f"column ({what}_column)", name, schema.names)
        if name is not None and name not in fit:
            raise ValueError(f"column {name!r} is {schema.field(name).type}, which is no {what}")
    if image is None:
        image = _only("image", [n for n in images if kinds.get(n) == "Image"] or images, schema)
    if label is None:
        classes = [n for n in labels if kinds.get(n) == "ClassLabel"]
        called = [n for n in labels if n == "label"]
        numbers = [n for n in labels if str(schema.field(n).type).startswith(("int", "uint"))]
        label = _only("label", classes or called or numbers or labels, schema)
    feature = features.get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return image, label, tuple(names) if names else None


def _features(schema) -> dict[str, Any]:
    """The `datasets` schema that Hugging Face writes into the file, if it is there and sound."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _holds_images(kind) -> bool:
    import pyarrow.types as t

    return t.is_struct(kind) or t.is_binary(kind) or t.is_large_binary(kind)


def _holds_labels(kind) -> bool:
    import pyarrow.types as t

    if t.is_dictionary(kind):
        kind = kind.value_type
    return t.is_integer(kind) or t.is_string(kind) or t.is_large_string(kind)


def _only(kind: str, found: list[str], schema) -> str:
    if len(found) > 1 and kind in found:
        return kind
    if len(found) != 1:
        which = f"{len(found)} columns could hold it ({', '.join(found)})" if found else "none fits"
        raise ValueError(
            f"which Parquet column holds the {kind}? {which}; name it with --{kind}_column "
            f"(columns: {', '.join(schema.names)})"
        )
    return found[0]
