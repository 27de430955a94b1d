"""The columns of Parquet files: which hold the images and the labels, and what the labels mean.

`parquet` reads the columns that these functions choose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from accuracy_booster.data.source import Names
from accuracy_booster.errors import unknown


def choose(schema: Any, image: str | None, label: str | None) -> tuple[str, str | None, Names]:
    """The image column, the label column, and the names of the classes if the file has them.

    `image` and `label` are the columns that the user names. Otherwise the `datasets` schema in the
    file decides, then the columns' types, then their names. The label column is None if no column
    can hold labels.

    Raises:
        ValueError: if a column is not there or cannot hold what it should, or if several columns
            could, so that the user must choose.
    """
    features = _features(schema)
    kinds = {name: f.get("_type") for name, f in features.items() if isinstance(f, dict)}
    images = [field.name for field in schema if _holds_images(field.type)]
    labels = [field.name for field in schema if _holds_labels(field.type, field.name)]
    for name, fit, what in ((image, images, "image"), (label, labels, "label")):
        if name is not None and name not in schema.names:
            raise unknown(f"column ({what}_column)", name, schema.names)
        kind = None if name is None else schema.field(name).type
        if name is not None and name not in fit and not (what == "label" and _is_number(kind)):
            raise ValueError(
                f"{what}_column={name!r} must hold {what}s, but its type is {kind}; name another "
                f"column (columns: {', '.join(schema.names)})"
            )
    if image is None:
        image = _only("image", [n for n in images if kinds.get(n) == "Image"] or images, schema)
    if label is None:
        labels = [n for n in labels if n != image]
        classes = [n for n in labels if kinds.get(n) == "ClassLabel"]
        called = [n for n in labels if n == "label"]
        numbers = [n for n in labels if kind_of_labels(schema.field(n).type) == "numbers"]
        texts = [n for n in labels if kind_of_labels(schema.field(n).type) == "text"]
        if found := classes or called or numbers or texts or labels:
            label = _only("label", found, schema)
    feature = features.get(label or "")
    return image, label, _class_names(feature)


def _features(schema: Any) -> dict[str, Any]:
    """The schema that Hugging Face `datasets` writes into the file; {} if absent or broken."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _class_names(feature: Any) -> Names:
    """The names of a `datasets` ClassLabel, which are a list or {"0": name, "1": name}."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):
        try:
            numbers = {int(number): str(name) for number, name in names.items()}
        except ValueError:
            return None
        names = (
            [numbers[n] for n in sorted(numbers)]
            if set(numbers) == set(range(len(names)))
            else None
        )
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _holds_images(kind: Any) -> bool:
    """Whether a type is bytes, in any layout, or Hugging Face's struct of bytes and path."""
    import pyarrow.types as t

    if t.is_struct(kind):
        return bool({"bytes", "path"} & {field.name for field in kind})
    return t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind)


def _holds_labels(kind: Any, name: str) -> bool:
    """Whether a type is integers, truth values or text.

    A column of fractions, or one without values, holds labels only if it is called "label".
    """
    import pyarrow.types as t

    if t.is_dictionary(kind):
        kind = kind.value_type
    if t.is_floating(kind) or t.is_null(kind):  # pandas turns numbers with gaps into fractions
        return name == "label"
    return t.is_integer(kind) or t.is_boolean(kind) or _is_text(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as t

    return t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind)


def _is_number(kind: Any) -> bool:
    import pyarrow.types as t

    if t.is_dictionary(kind):
        kind = kind.value_type
    return t.is_integer(kind) or t.is_floating(kind) or t.is_null(kind) or t.is_boolean(kind)


def kind_of_labels(kind: Any) -> str | None:
    """ "text", "truth values" or "numbers"; None for a column without values.

    All shards of a split must have the same.
    """
    import pyarrow.types as t

    if t.is_dictionary(kind):
        kind = kind.value_type
    if t.is_null(kind):
        return None
    return "text" if _is_text(kind) else "truth values" if t.is_boolean(kind) else "numbers"


def numbers_of(values: Sequence[Any], names: Names, where: str) -> tuple[list[int], Names] | None:
    """The labels as class numbers, and the names of the classes; None if no row has a label.

    Raises:
        ValueError: if some rows have a label and others have none, or if a label is no class.
    """
    missing = [v is None or v == "" or (isinstance(v, float) and math.isnan(v)) for v in values]
    if values and all(m or v == -1 for m, v in zip(missing, values, strict=True)):
        return None
    if any(missing):
        raise ValueError(
            f"{where} has {sum(missing)} of {len(values)} rows without a label; leave these rows "
            "out of the files, or name another column with --label_column"
        )
    first = values[0] if values else 0
    if not isinstance(first, (str, bool)):
        for value in (value for value in values if abs(value) >= 2**63):
            raise ValueError(
                f"{where} holds {value:g}, which is no class number: they go from 0 up; name "
                "another column with --label_column"
            )
    if isinstance(first, bool):
        return [int(value) for value in values], names or ("False", "True")
    if isinstance(first, float):
        odd = next((value for value in values if not value.is_integer()), None)
        if odd is not None:
            raise ValueError(
                f"{where} holds {odd}, and a class number is whole; name another column with "
                "--label_column"
            )
        return [int(value) for value in values], names
    if not isinstance(first, str):
        return list(values), names
    known = names or tuple(sorted(set(values)))
    index = {name: i for i, name in enumerate(known)}
    if strange := sorted(set(values) - set(index)):
        raise ValueError(
            f"{where} holds {strange[0]!r}, which is none of the {len(known)} classes that the "
            "file's schema names"
        )
    return [index[value] for value in values], known


def _only(kind: str, found: list[str], schema: Any) -> str:
    """The one column among those found, or of several the one that is called `kind`."""
    if len(found) > 1 and kind in found:
        return kind
    if len(found) != 1:
        which = f"{len(found)} columns could hold it ({', '.join(found)})" if found else "none fits"
        raise ValueError(
            f"which Parquet column holds the {kind}? {which}; name it with --{kind}_column "
            f"(columns: {', '.join(schema.names)})"
        )
    return found[0]


def no_labels(schema: Any) -> str:
    """The error message for a training split in which no column can hold labels."""
    return (
        "which Parquet column holds the label? none fits; name it with --label_column "
        f"(columns: {', '.join(schema.names)})"
    )
