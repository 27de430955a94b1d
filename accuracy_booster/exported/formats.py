"""The formats of exported files, one row each."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from accuracy_booster.errors import shown, unknown


@dataclass(frozen=True)
class Format:
    """A format of exported files.

    Attributes:
        name: as `--format` names it.
        suffix: of the file's name.
        runtime: the package that runs such a file.
        writers: the packages that write one, beside torch.
        about: one line for people.
        extra: what installs these packages, as a part of this one.
        beside: suffixes of other files that may be written beside it.
    """

    name: str
    suffix: str
    runtime: str
    writers: tuple[str, ...]
    about: str
    extra: str = "export"
    beside: tuple[str, ...] = ()

    def check_writers(self) -> None:
        """Raise ValueError if a package is missing that writes such a file."""
        self._check((*self.writers, self.runtime), f"to export {self.name}")

    def check_runtime(self) -> None:
        """Raise ValueError if the package that runs such a file is missing."""
        self._check((self.runtime,), f"to run a file {self.suffix}")

    def _check(self, packages: tuple[str, ...], purpose: str) -> None:
        missing = [package for package in dict.fromkeys(packages) if find_spec(package) is None]
        if missing:
            raise ValueError(
                f"{purpose} takes {' and '.join(missing)}, which is not installed; "
                f"pip install {' '.join(missing)}, or pip install 'accuracy-booster[{self.extra}]'"
            )


NAME = "model"  # of the files that are written into a run's directory, if no name is given

_ROWS = (
    Format(
        "onnx", ".onnx", "onnxruntime", ("onnx", "onnxscript"), "ONNX, for onnxruntime and others"
    ),
    Format("torch", ".pt2", "torch", (), "a program of torch.export, for Python"),
    Format(
        *("aoti", ".aoti.pt2", "torch", (), "compiled by AOTInductor, for C++ and Python"),
        beside=(".aoti.so",),
    ),
    Format(
        *("openvino", ".xml", "openvino", (), "OpenVINO, a file .xml and one .bin beside it"),
        beside=(".bin",),
    ),
    Format("executorch", ".pte", "executorch", (), "ExecuTorch, for phones", "mobile"),
)
FORMATS = {row.name: row for row in _ROWS}


def exported_in(run: Path, text: str) -> list[Path]:
    """The files that `export` wrote into a run's directory under its own name for them.

    Args:
        text: the run's id, which such a file holds; another program's file does not.
    """
    found = []
    for row in _ROWS:
        file = run / f"{NAME}{row.suffix}"
        if file.is_file() and _holds(file, text.encode()):
            found += [file, *(run / f"{NAME}{suffix}" for suffix in row.beside)]
    return found


def _holds(file: Path, text: bytes) -> bool:
    with file.open("rb") as opened:
        if file.stat().st_size == 0:  # an empty file cannot be mapped
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0


def format_named(name: str) -> Format:
    """The row of a format.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def format_of(path: Path) -> Format:
    """The format of a file, by the end of its name.

    Raises:
        ValueError: if no format has such files.
    """
    row = _row_of(path)
    if row is not None:
        return row
    ends = ", ".join(row.suffix for row in _ROWS)
    raise ValueError(
        f"{shown(str(path))} is no exported file: its name must end with one of {ends}"
    )


def is_exported(path: str | Path) -> bool:
    """Whether a path is named as an exported file is."""
    return _row_of(Path(path)) is not None


def _row_of(path: Path) -> Format | None:
    """The row with the longest suffix that ends the file's name; None if there is none."""
    fitting = [row for row in _ROWS if path.name.lower().endswith(row.suffix)]
    return max(fitting, key=lambda row: len(row.suffix), default=None)
