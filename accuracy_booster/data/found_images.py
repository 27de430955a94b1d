"""Which files a user means by paths, folders and patterns. Nothing here needs torch.

`prediction`, `exported` and `detection` find the images that they predict here.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from accuracy_booster.data import image_files
from accuracy_booster.errors import shown
from accuracy_booster.progress import note, printable


def find_images(paths: Iterable[str | Path]) -> list[str]:
    """The given files, the images below given directories, and what given patterns match.

    The images below a directory are sorted. Each file comes once. A pattern (`*`, `?`, `[...]`, and
    `**` for all folders below) counts where no file of this name is there; of what it matches,
    images and directories are taken.

    Raises:
        ValueError: for a path that does not exist, a directory without images, or a pattern that
            matches none.
    """
    found: dict[str, str] = {}  # {real path: given path}
    for path in map(str, paths):
        if os.path.isdir(path):
            below = _below(path)
        elif os.path.lexists(path):
            below = [path]
        elif glob.has_magic(path):
            below = _matched(path)
        else:
            raise ValueError(f"there is no file or directory {shown(path)}; check the path")
        for file in below:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _below(path: str) -> list[str]:
    """The images below a directory."""
    inside = image_files.collect({"": [path]}, path)[""]
    others = image_files.kinds(inside.others, image_files.COMPANIONS)
    if not inside.images:
        has = f"; it holds {others} files" if others else ""
        raise ValueError(f"{printable(path)} holds no images that Pillow reads{has}")
    if others:
        note(f"{path}: left out {others} files, which Pillow does not read here")
    return inside.images


def _matched(pattern: str) -> list[str]:
    """The images that a pattern matches, and those below the directories that it matches."""
    known, files = image_files.extensions(), []
    matches = sorted(glob.glob(pattern, recursive=True))
    for path in matches:
        if os.path.isdir(path):
            if "**" not in pattern:  # `**` matches the files below by itself
                files += image_files.collect({"": [path]}, path)[""].images
        elif os.path.splitext(path)[1].lower() in known and not image_files.is_leftover(
            os.path.basename(path)
        ):
            files.append(path)
    if not files:
        has = f", only {_others(len(matches))}" if matches else ""
        raise ValueError(f"the pattern {shown(pattern)} matches no images{has}; check it")
    return files


def _others(count: int) -> str:
    return "1 path that is none" if count == 1 else f"{count:,} paths that are none"
