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
    except pa.ArrowException as e:
        raise ValueError(f"cannot read the Parquet files of {path}: {e}") from e
    values = table[label].to_pylist()
    if any(value is None for value in values):
        raise ValueError(f"column {label!r} of {path}, {split}, has rows without a label")
    if isinstance(values[0] if values else 0, str):
        names = names or tuple(sorted(set(values)))
        index = {name: i for i, name in enumerate(names)}
        values = [index[value] for value in values]
    labels = torch.tensor(values, dtype=torch.int64)
    names = names or tuple(str(i) for i in range(int(labels.max()) + 1 if len(labels) else 1))
    return EncodedImages(_ReadRow(table[image], path), labels, f"{path.name}/{split}"), names


def _columns(schema, image: str | None, label: str | None) -> tuple[str, str, tuple[str, ...]]:
    """The image column, the label column, and the names of the classes if the file has them."""
    import pyarrow.types as t

    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    kinds = {name: f.get("_type") for name, f in features.items() if isinstance(f, dict)}
    for name, option in ((image, "image_column"), (label, "label_column")):
        if name is not None and name not in schema.names:
            raise unknown(f"column ({option})", name, schema.names)

    def by_type(*accepts) -> list[str]:
        return [field.name for field in schema if any(accept(field.type) for accept in accepts)]

    if image is None:
        found = [n for n in schema.names if kinds.get(n) == "Image"]
        image = _only(
            "image", found or by_type(t.is_struct, t.is_binary, t.is_large_binary), schema
        )
    if label is None:
        found = [n for n in schema.names if kinds.get(n) == "ClassLabel"]
        found = found or by_type(t.is_integer) or by_type(t.is_string, t.is_large_string)
        label = _only("label", [n for n in found if n != image], schema)
    return image, label, tuple(features.get(label, {}).get("names") or ())


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
