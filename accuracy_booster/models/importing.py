"""Import paths, which name an object of the user's own code: "package.module:function".

Only what the user gives is imported. A path that stands in a file of a run never is.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from accuracy_booster.errors import shortened, shown, unknown

_PATH = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)")


def is_import_path(text: str) -> bool:
    """Whether a text has the form package.module:function or file.py:function."""
    return _PATH.fullmatch(text) is not None


def import_path(text: str) -> Any:
    """The object of an import path. Its module is imported from here or from its own folder.

    Raises:
        ValueError: if there is no such module or file, importing it fails, or it holds no object of
            this name (with the nearest ones).
    """
    match = _PATH.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} must be package.module:function or file.py:function")
    place, name = match["place"], match["name"]
    found: Any = _file(place) if place.endswith(".py") else _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n in vars(found) if not n.startswith("_")]
            raise unknown(f"name in {place}", part, known)
        found = getattr(found, part)
    return found


def _module(name: str) -> ModuleType:
    # last: a file here that is called as an installed module is not imported in its place
    with _on_path(Path.cwd(), len(sys.path)), _told(name):
        return importlib.import_module(name)


def _file(name: str) -> ModuleType:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"{name!r}: there is no such file")
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    # by its own name, so that what is pickled can be found again; an other module keeps its name
    own = path.stem if path.stem not in sys.modules else f"_accuracy_booster_{path.stem}"
    spec = importlib.util.spec_from_file_location(own, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{name!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(own)
    sys.modules[own] = module
    try:
        with _on_path(path.parent, 0), _told(name):
            spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[own]
        else:
            sys.modules[own] = before
        raise
    return module


@contextmanager
def _on_path(folder: Path, place: int) -> Iterator[None]:
    """Let modules of a folder be imported while the user's code is."""
    sys.path.insert(place, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn an error of the user's code into a ValueError of one line."""
    try:
        yield
    except ModuleNotFoundError as e:
        if e.name and (name == e.name or name.startswith(f"{e.name}.")):
            raise ValueError(
                f"there is no module {shown(e.name)} here or among the installed packages; name "
                "the file as path/to/file.py:function"
            ) from e
        raise ValueError(f"importing {name} failed: {e}") from e
    except Exception as e:
        reason = shortened(" ".join(str(e).split()), 300)
        raise ValueError(f"importing {name} failed: {type(e).__name__}: {reason}") from e
