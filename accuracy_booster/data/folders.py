"""Directories of class folders: inside train/, val/ and test/, or without splits.

`sources` makes a source of them here if they hold no Parquet or tar files.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from accuracy_booster.data import image_files
from accuracy_booster.data.encoded_images import EncodedImages, ReadPath
from accuracy_booster.data.source import Part, Source, Unlabelled
from accuracy_booster.data.split_names import name_splits

LAYOUT = "train/ and val/ or test/, each with a folder for each class, or a folder for each class"


def folder_source(path: Path) -> Source:
    """The splits of a directory. Without split folders, its class folders are the training split.

    Raises:
        ValueError: if it holds no class folders.
    """
    found = image_files.folders(path)
    splits = name_splits(found, str(path))
    if splits and not _are_classes(path, found, splits):
        reads = {split: partial(_read, path, splits, split) for split in splits}
        return Source(str(path), reads)
    if not found:
        loose = image_files.collect({"": [str(path)]}, path)[""]
        have = f"{len(loose.images)} images in no folder" if loose.images else "no folders"
        raise ValueError(
            f"{path} holds no images in class folders: expected {LAYOUT}, or Parquet files; found "
            f"{have}"
        )
    inner = {name: image_files.folders(path / name) for name in found}
    for name, below in inner.items():
        alone = len(found) == 1 and len(below) > 1 and not _holds_images(path / name)
        if alone or {"train", "test"} <= set(name_splits(below, str(path / name))):
            raise ValueError(
                f"{path} has no train/, but a folder in it seems to hold the data; give --data "
                f"{path / name}"
            )
    return Source(str(path), {"train": partial(_read, path, {"train": "."}, "train")}, unsplit=True)


def _are_classes(path: Path, found: Sequence[str], splits: dict[str, str]) -> bool:
    """Whether a folder is called like a split by chance: a class `train` beside cars and planes."""
    if set(found) == set(splits.values()):
        return False
    if any(image_files.folders(path / name) for name in splits.values()):
        return False
    beside = set(found) - set(splits.values())
    return any(_holds_images(path / name) for name in (*splits.values(), *beside)) and all(
        _holds_images(path / name) for name in beside
    )


def _holds_images(folder: Path) -> bool:
    return any(_is_image(e.name) for e in image_files.entries(folder))


def _read(path: Path, splits: dict[str, str], split: str) -> Part:
    # the training folders name the classes, so a class without test images keeps its number
    root = path / splits[split]
    own = _classes(root, remark=True)
    classes = _classes(path / splits["train"]) if "train" in splits else own
    loose = sum(e.is_file() and _is_image(e.name) for e in image_files.entries(root))
    if not own:
        _refuse_flat(root, loose, training=split == "train")
    if extra := sorted(set(own) - set(classes)):
        _refuse_extra(root, [*own], [*classes], extra)
    found = image_files.collect({name: own.get(name, []) for name in classes}, root)
    images = [file for one in found.values() for file in one.images]
    labels = [i for i, one in enumerate(found.values()) for _ in one.images]
    if not images:
        others = sum((one.others for one in found.values()), Counter[str]())
        have = f"; its class folders hold {image_files.kinds(others)} files" if others else ""
        raise ValueError(
            f"{root} holds no images that Pillow reads here (.jpg, .png, .webp, .gif, .bmp, .tif, "
            f".avif and others){have}"
        )
    _remark(root, found, own, loose, training=split == "train")
    source = f"{path.name}/{splits[split]}".removesuffix("/.")
    return EncodedImages(ReadPath(images, str(root)), labels, source), tuple(classes)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_files.extensions()


def _classes(root: Path, *, remark: bool = False) -> dict[str, list[str]]:
    """The class folders by name. Two Unicode spellings of a name (NFC, NFD) are one class.

    A link to a folder further up, or to another class folder, is left out; with `remark`, a warning
    says so of the second.
    """
    names = image_files.folders(root)
    here = Path(os.path.realpath(root))
    taken = {os.path.realpath(root / n): n for n in names if not (root / n).is_symlink()}
    found: dict[str, list[str]] = {}
    for name in names:
        folder = root / name
        if folder.is_symlink():
            target = os.path.realpath(folder)
            if here.is_relative_to(target):
                continue
            if target in taken:
                if remark:
                    warnings.warn(
                        f"{folder} is a link to the same folder as {taken[target]} and is left out",
                        stacklevel=2,
                    )
                continue
            taken[target] = name
        found.setdefault(image_files.same_name(name), []).append(str(folder))
    return dict(sorted(found.items()))


def _refuse_flat(root: Path, loose: int, *, training: bool) -> None:
    """Raise for a split without class folders, with `loose` images in it."""
    if not loose:
        raise ValueError(f"{root} has no class folders and no images")
    lie = f"its {loose} image{'s'[: loose > 1]} lie in {root.name}/ itself"
    if training:
        raise ValueError(
            f"{root} has no class folders: {lie}; put the images of each class into a folder, "
            f"{root.name}/CLASS/"
        )
    raise Unlabelled(f"{root} has no class folders: {lie} and have no labels")


def _refuse_extra(
    root: Path, own: Sequence[str], classes: Sequence[str], extra: Sequence[str]
) -> None:
    """Raise for a split with classes (`own`) of which some (`extra`) are none of train's."""
    near = [(name, [c for c in classes if c.casefold() == name.casefold()]) for name in extra]
    if len(own) == 1 and len(classes) > 1 and not near[0][1]:
        raise Unlabelled(
            f"{root} has one folder, {extra[0]}, which is none of train/'s {len(classes)} "
            "classes, so its images have no labels"
        )
    hint = "; ".join(f"{name} is {like[0]} there" for name, like in near if like)
    raise ValueError(
        f"{root} has classes that train/ has not: {', '.join(extra[:5])}"
        + (
            f" ({hint}: spell them alike)"
            if hint
            else f"; put training images of them into train/, or take them out of {root.name}/"
        )
    )


def _remark(
    root: Path,
    found: Mapping[str, image_files.Found],
    own: Mapping[str, Sequence[str]],
    loose: int,
    *,
    training: bool,
) -> None:
    """Warn of classes without images and of files that are left out, in one line each."""
    remarks = []
    bare = [name for name, one in found.items() if not one.images and name in own]
    for name in bare[:5]:
        others, lost = found[name].others, found[name].lost
        if others or lost:
            has = image_files.kinds(others) or "links that lead nowhere"
            why = "which Pillow does not read here" if others else "so there is nothing to read"
            remarks.append(f"class folder {name} of {root} gives 0 images: it has {has}, {why}")
        elif training and any(one.images for one in found.values()):
            remarks.append(
                f"class folder {name} of {root} is empty, and the network gets an output for it: "
                "add images, or remove the folder"
            )
    mixed = Counter[str]()
    for name, one in found.items():
        mixed.update(one.others if name not in bare else {})
    if left := image_files.kinds(mixed, image_files.COMPANIONS):
        remarks.append(f"left out of {root}, since Pillow does not read them here: {left} files")
    if lost := sum(one.lost for name, one in found.items() if name not in bare):
        remarks.append(f"left out of {root}: {lost} links that lead nowhere")
    if loose:
        remarks.append(f"left out of {root}: {loose} images beside its class folders")
    alike: dict[str, list[str]] = {}
    for name in own:
        alike.setdefault(name.casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1 and len(names[0]) > 1:  # a and A are two letters
            remarks.append(f"{root} has {' and '.join(names)}, which are taken for two classes")
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
