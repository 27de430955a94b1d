"""Reads a COCO instances file, checks it, and keeps it as compact arrays.

The file comes from outside, so the keys and types of each entry are checked before they are used.
"""

# N images, M annotations

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accuracy_booster.data.image_files import same_name
from accuracy_booster.errors import shown
from accuracy_booster.progress import note, printable, track

LARGE = 100 * 2**20  # bytes; a line announces that a larger file is read
FARTHEST = 1e9  # pixels; larger coordinates are refused


@dataclass(frozen=True)
class Coco:
    """The images, annotations and categories of one file.

    Boxes are (x, y, width, height) in pixels, as in the file. Where an annotation has no area, it
    is that of its box. `annotation_ids` name annotations in messages; an annotation without an id
    is named by its place in the file.
    """

    file: Path
    image_ids: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N, 2]: height, width
    names: list[str]  # N paths below the folder of the images
    annotation_ids: list[Any]  # M
    annotation_images: np.ndarray  # int64 [M]: image ids
    annotation_categories: np.ndarray  # int64 [M]: category ids
    boxes: np.ndarray  # float64 [M, 4]
    areas: np.ndarray  # float64 [M]
    crowd: np.ndarray  # bool [M]
    categories: dict[int, str]  # by id


def read_coco(file: Path) -> Coco:
    """The content of a file of annotations.

    Raises:
        ValueError: if it cannot be read, is damaged, or holds entries of another form. The message
            is one line that names the file, what is wrong, how often, and the first case.
    """
    content = _parse(file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            have = f"is {shown(content[key])}" if key in content else "is not there"
            raise ValueError(f"{_name(file)}: {key} {have}; a COCO file has a list of {key}")
        if not content[key] and key != "annotations":
            raise ValueError(f"{_name(file)} has no {key}")
    images, annotations = content["images"], content["annotations"]
    _check(file, "images", images, _IMAGE)
    _check(file, "categories", content["categories"], _CATEGORY)
    _check(file, "annotations", annotations, _ANNOTATION)
    names = {c["id"]: same_name(c["name"]) for c in content["categories"]}
    _refuse_repeated(file, "images", "id", [image["id"] for image in images])
    _refuse_repeated(file, "categories", "id", [c["id"] for c in content["categories"]])
    _refuse_repeated(file, "categories", "name", [*names.values()])
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    areas = [
        width * height if (area := a.get("area")) is None else area
        for a, (width, height) in zip(annotations, boxes[:, 2:].tolist(), strict=True)
    ]
    return Coco(
        file=file,
        image_ids=np.array([image["id"] for image in images], np.int64),
        sizes=np.array([(image["height"], image["width"]) for image in images], np.int64),
        names=[image["file_name"] for image in images],
        annotation_ids=[a.get("id", f"number {i}") for i, a in enumerate(annotations)],
        annotation_images=np.array([a["image_id"] for a in annotations], np.int64),
        annotation_categories=np.array([a["category_id"] for a in annotations], np.int64),
        boxes=boxes,
        areas=np.array(areas, np.float64),
        crowd=np.array([bool(a.get("iscrowd")) for a in annotations], bool),
        categories=dict(sorted(names.items())),
    )


def _parse(file: Path) -> dict[str, Any]:
    """The JSON object in a file. The outlines of objects, most of the file, are dropped at once."""
    try:
        if not file.is_file():  # opening a pipe would wait for its writer
            raise ValueError(f"{_name(file)} is no file that is there")
        if (size := file.stat().st_size) > LARGE:
            note(f"reading {_name(file)} ({size / 2**20:,.0f} MiB)")
        text = file.read_bytes()
    except OSError as e:
        raise ValueError(f"cannot read {_name(file)}: {e.strerror or e}") from e
    try:
        content = json.loads(text, object_hook=_without_outline)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{_name(file)} is damaged: {printable(str(e)[:200])}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{_name(file)} holds no JSON object, as a COCO file does")
    return content


def _without_outline(value: dict[str, Any]) -> dict[str, Any]:
    value.pop("segmentation", None)
    return value


def _name(file: Path) -> str:
    return printable(file)


# --- what an entry must hold


def _is_id(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_edge(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value < FARTHEST and value == int(value)


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        # false for NaN too
        and all(type(v) in (int, float) and -FARTHEST < v < FARTHEST for v in value)
    )


def _is_area(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and abs(value) < FARTHEST**2)


def _is_crowd(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and value in (0, 1))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_below(value: Any) -> bool:
    """Whether a value is a path that stays below the folder that it is joined to, on any system."""
    if not _is_text(value) or "\0" in value or value[0] in "/\\" or value[1:2] == ":":
        return False
    return ".." not in re.split(r"[/\\]", value)


# {key: (a function that says whether a value fits, what fits in words)}
_Rules = Mapping[str, tuple[Callable[[Any], bool], str]]
_IMAGE: _Rules = {
    "id": (_is_id, "a whole number"),
    "file_name": (_is_below, "a path below the folder of the images, without .."),
    "width": (_is_edge, "a whole number of pixels, 1 or more"),
    "height": (_is_edge, "a whole number of pixels, 1 or more"),
}
_CATEGORY: _Rules = {
    "id": (_is_id, "a whole number"),
    "name": (_is_text, "a text that is not empty"),
}
_ANNOTATION: _Rules = {
    "image_id": (_is_id, "a whole number"),
    "category_id": (_is_id, "a whole number"),
    "bbox": (_is_box, "4 finite numbers, x, y, width and height"),
    "area": (_is_area, "a finite number"),
    "iscrowd": (_is_crowd, "0 or 1"),
}


def _check(file: Path, kind: str, entries: Sequence[Any], rules: _Rules) -> None:
    """Raise ValueError if entries lack a key or hold another type, with counts and first cases."""
    faults: Counter[str] = Counter()
    first: dict[str, str] = {}
    checks = [(key, fits) for key, (fits, _) in rules.items()]
    for number, entry in enumerate(track(entries, f"Checking the {kind} of {file.name}")):
        if not isinstance(entry, dict):
            faults["no object"] += 1
            first.setdefault("no object", f"number {number}: {shown(entry)}")
            continue
        for key, fits in checks:
            value = entry.get(key)
            if not fits(value):
                fault = key if key in entry else f"no {key}"
                faults[fault] += 1
                if fault not in first:
                    own = f" (id {shown(entry['id'])})" if "id" in entry else ""
                    have = f"{key}={shown(value)}" if key in entry else "without it"
                    first[fault] = f"number {number}{own}: {have}"
    if not faults:
        return
    told = []
    for fault, count in faults.items():
        what = f"have a {fault} that is not {rules[fault][1]}" if fault in rules else ""
        what = what or ("are no objects" if fault == "no object" else f"have {fault}")
        told.append(f"{count:,} of {len(entries):,} {kind} {what}, the first {first[fault]}")
    raise ValueError(f"{_name(file)}: {printable('; '.join(told))}")


def _refuse_repeated(file: Path, kind: str, key: str, values: Sequence[Any]) -> None:
    """Raise ValueError if a value that must be unique occurs twice."""
    if len(set(values)) == len(values):
        return
    repeated = [(value, count) for value, count in Counter(values).items() if count > 1]
    value, count = repeated[0]
    more = f", and {len(repeated) - 1:,} more are shared" if len(repeated) > 1 else ""
    raise ValueError(
        f"{_name(file)}: the {key} {printable(shown(value))} is that of {count} {kind}{more}; each "
        "needs its own"
    )
