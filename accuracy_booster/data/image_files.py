"""Which files and folders of a data set count, and which kinds of files Pillow reads.

All sources of files, and `detection`, look for their files with these functions.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

# What operating systems, file servers and editors leave in folders. Names that start with a dot
# (._x.jpg, .DS_Store, .ipynb_checkpoints) do not count either.
LEFTOVERS = frozenset(
    (
        *("__macosx", "__pycache__", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin"),
        *("system volume information", "lost+found", "lost.dir", "found.000", "recycler"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    )
)
# Formats that Pillow recognises and cannot read, or for which it runs another program.
NOT_READ = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
# Other files that commonly lie beside images; no warning is given of them.
COMPANIONS = frozenset(
    (
        *(".txt", ".md", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".html"),
        *(".ini", ".db", ".log", ".url", ".lnk", ".sh", ".py", ".rst"),
    )
)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left there by some other program."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def same_name(name: str) -> str:
    """A name in Unicode's NFC spelling. macOS stores an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


@cache
def extensions() -> frozenset[str]:
    """The extensions, in lower case, of the files that Pillow reads on this machine."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(e for e, form in known if form in Image.OPEN and form not in NOT_READ)


@dataclass
class Found:
    """The paths of the images below some folders, and the number of other files by extension."""

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # links that lead nowhere


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """The files and folders in a folder that are no leftovers, by name.

    Raises:
        ValueError: if the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not is_leftover(e.name)), key=lambda e: e.name)
    except OSError as e:
        raise ValueError(f"cannot read the folder {folder}: {e.strerror or e}") from e


def folders(path: Path | str) -> list[str]:
    """The names of the folders in a folder, without leftovers."""
    return [e.name for e in entries(path) if e.is_dir()]


def walk(
    starts: Iterable[tuple[str, str]], root: Path | str
) -> Iterator[tuple[str, str, list[os.DirEntry[str]]]]:
    """(key, folder, the files in it) of every folder at or below `starts`, pairs (key, folder).

    Each folder is entered once, however many links lead to it. Folders that are no links come
    first. A link to `root` or to a folder further up would be a loop, and is not followed.
    """
    top = Path(root).resolve()
    seen = {_identity(folder) for folder in (top, *top.parents)}
    real: list[tuple[str, str]] = []
    linked: list[tuple[str, str]] = []
    for key, folder in starts:
        (linked if os.path.islink(folder) else real).append((key, folder))
    if any(os.path.samefile(folder, top) for _, folder in real):
        seen.discard(_identity(top))
    while real or linked:
        key, folder = real.pop() if real else linked.pop(0)
        identity = _identity(folder)
        if identity in seen:
            continue
        seen.add(identity)
        rest = []
        for entry in entries(folder):
            if entry.is_dir(follow_symlinks=False):
                real.append((key, entry.path))
            elif entry.is_dir():
                linked.append((key, entry.path))
            else:
                rest.append(entry)
        yield key, folder, rest


def _identity(folder: Path | str) -> tuple[int, int]:
    """What two paths of the same folder have in common: its device and its number there."""
    try:
        found = os.stat(folder)
    except OSError as e:
        raise ValueError(f"cannot read the folder {folder}: {e.strerror or e}") from e
    return found.st_dev, found.st_ino


def collect(classes: Mapping[str, Iterable[str]], root: Path | str) -> dict[str, Found]:
    """What lies below the folders of each class, {class: its folders}; images by folder and name.

    Only regular files count, so a pipe that is called x.png is never opened.
    """
    starts = [(name, folder) for name, paths in classes.items() for folder in paths]
    found = {name: Found() for name in classes}
    kept: dict[str, list[tuple[str, str]]] = {name: [] for name in classes}
    known = extensions()
    for name, folder, rest in walk(starts, root):
        for entry in rest:
            if not entry.is_file():
                found[name].lost += entry.is_symlink()
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in known:
                kept[name].append((folder, entry.name))
            else:
                found[name].others[suffix] += 1
    for name, pairs in kept.items():
        found[name].images = [os.path.join(*pair) for pair in sorted(pairs)]
    return found


def files(path: Path | str, suffix: str) -> list[Path]:
    """The regular files at or below a folder whose names end with `suffix`, by path."""
    found = [
        Path(entry.path)
        for _, _, rest in walk([("", str(path))], path)
        for entry in rest
        if entry.name.endswith(suffix) and entry.is_file()
    ]
    return sorted(found)


def kinds(others: Mapping[str, int], leave_out: frozenset[str] = frozenset()) -> str:
    """The most frequent extensions of files, as text: "12 .heic, 3 .npy"."""
    rows = sorted((-n, suffix) for suffix, n in others.items() if suffix not in leave_out)
    return ", ".join(f"{-n} {suffix or 'without an extension'}" for n, suffix in rows[:4])
