"""Which files and folders of a data set count, and which kinds of files Pillow reads."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

# What operating systems, file servers and editors leave in folders; names that start with a dot
# (._x.jpg, .DS_Store, .ipynb_checkpoints) never count either.
LEFTOVERS = frozenset(
    (
        *("__macosx", "__pycache__", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin"),
        *("system volume information", "lost+found", "lost.dir", "found.000", "recycler"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    )
)
# Formats that Pillow only recognises, or for which it runs another program.
NOT_READ = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
# Files beside images that are no images: they need no remark.
COMPANIONS = frozenset(
    (
        *(".txt", ".md", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".html"),
        *(".ini", ".db", ".log", ".url", ".lnk", ".sh", ".py", ".rst"),
    )
)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or a leftover of some other program."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def same_name(name: str) -> str:
    """The one spelling (NFC) of a name: macOS stores an accent as a letter of its own."""
    return unicodedata.normalize("NFC", name)


@cache
def extensions() -> frozenset[str]:
    """The extensions, in lower case, of what Pillow reads here."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(e for e, form in known if form in Image.OPEN and form not in NOT_READ)


@dataclass
class Found:
    """The images below some folders, and how many other files there are of each extension."""

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # links that lead nowhere


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What counts in a folder, by name.

    Raises:
        ValueError: if the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not is_leftover(e.name)), key=lambda e: e.name)
    except OSError as e:
        raise ValueError(f"cannot read the folder {folder}: {e.strerror or e}") from e


def folders(path: Path | str) -> list[str]:
    """The names of the folders in a folder that count."""
    return [e.name for e in entries(path) if e.is_dir()]


def walk(
    starts: Iterable[tuple[str, str]], root: Path | str
) -> Iterator[tuple[str, str, list[os.DirEntry[str]]]]:
    """(key, folder, its entries that are no folders) of every folder at or below the starts.

    Each folder is entered once, however many links lead to it, and the real folders come before
    the linked ones. A link to `root` or to a folder above it is a loop and is not followed.
    """
    place = Path(root).resolve()
    seen = {_identity(folder) for folder in (place, *place.parents)}
    real: list[tuple[str, str]] = []
    linked: list[tuple[str, str]] = []
    for key, folder in starts:
        (linked if os.path.islink(folder) else real).append((key, folder))
    if any(os.path.samefile(folder, place) for _, folder in real):
        seen.discard(_identity(place))
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
    try:
        found = os.stat(folder)
    except OSError as e:
        raise ValueError(f"cannot read the folder {folder}: {e.strerror or e}") from e
    return found.st_dev, found.st_ino


def collect(classes: Mapping[str, Iterable[str]], root: Path | str) -> dict[str, Found]:
    """What lies below the folders of each class, the images by folder and name.

    Only regular files count: a pipe that is called x.png is never opened.
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
    """The regular files at or below a folder whose names end so, by path."""
    found = [
        Path(entry.path)
        for _, _, rest in walk([("", str(path))], path)
        for entry in rest
        if entry.name.endswith(suffix) and entry.is_file()
    ]
    return sorted(found)


def kinds(others: Mapping[str, int], leave_out: frozenset[str] = frozenset()) -> str:
    """ "12 .heic, 3 .npy": the extensions of files, those with most first."""
    rows = sorted((-n, suffix) for suffix, n in others.items() if suffix not in leave_out)
    return ", ".join(f"{-n} {suffix or 'without an extension'}" for n, suffix in rows[:4])
