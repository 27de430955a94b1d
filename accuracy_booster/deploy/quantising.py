"""The int8 form of an exported float32 file, by the quantisation of its own runtime."""

# N images, C channels, H W space

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from accuracy_booster.errors import shown
from accuracy_booster.exported import About
from accuracy_booster.exported.formats import Format, format_of
from accuracy_booster.exported.sessions import open_file

PRECISIONS = ("float32", "int8")
# the packages that quantise a format, beside those that write it
_PACKAGES: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "sympy"), "openvino": ("nncf",)}
LEAST = 16  # calibration images: of fewer, the ranges of the maps are chance


def check_int8(kind: Format) -> None:
    """Raise ValueError if there is no int8 of a format, or a package is missing that makes it."""
    if kind.name not in _PACKAGES:
        raise ValueError(
            f"precision='int8' is for the formats {' and '.join(_PACKAGES)}, not {kind.name}: "
            "torch's own quantisation of exported programs is in torchao, which is not used here; "
            f"give format={next(iter(_PACKAGES))!r}, or leave precision out"
        )
    missing = [package for package in _PACKAGES[kind.name] if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"to quantise a file {kind.suffix} takes {' and '.join(missing)}, which is not "
            f"installed; pip install {' '.join(missing)}, or pip install 'accuracy-booster[export]'"
        )
    kind.check_writers()


@dataclass(frozen=True)
class Quantised:
    """A network in int8, ready to be saved.

    Attributes:
        kind: the format.
        model: the runtime's own object.
        about: what its file will say of itself; its metrics tell the precision.
        images: how many it was calibrated with.
    """

    kind: Format
    model: Any
    about: About
    images: int

    def check_output(self, output: Path) -> None:
        """Raise ValueError for a file whose name ends as those of another format."""
        if output.suffix.lower() != self.kind.suffix:
            raise ValueError(
                f"{shown(str(output))} must end with {self.kind.suffix}: quantising does not "
                "change the format"
            )

    def save(self, output: Path) -> Path:
        """Write the file, and for OpenVINO the one with the weights beside it; returns its path."""
        self.check_output(output)
        _module(self.kind).save(self.model, output, self.about.to_texts())
        return output


def quantise(file: str | Path, batches: Iterable[np.ndarray]) -> Quantised:
    """The network of an exported file in int8, in the same format.

    Convolutions, products of matrices and the sums between them get 8-bit weights, one scale for
    each output channel, and 8-bit maps, one scale for each map. Gates stay in float32: the means,
    the factors, and what is between. Their products with maps are computed in 8 bits by
    onnxruntime, and in float32 by OpenVINO. The number of images in a batch stays free.

    Args:
        file: the float32 file, .onnx or .xml.
        batches: images to calibrate with, float32 [N, C, H, W], normalised: some hundred of those
            that the network was trained on.

    Raises:
        ValueError: for a file of another format or that cannot be read, a missing package, or too
            few images.
    """
    file = Path(file).expanduser()
    kind = format_of(file)
    check_int8(kind)
    about = open_file(file).about
    if about.metrics.get("precision") == "int8":
        raise ValueError(f"{file} is an int8 file already; give the float32 file")
    images = _checked(batches, about.input_size)
    model = _module(kind).quantise(file, images)
    about = replace(about, metrics={**about.metrics, "precision": "int8"})
    return Quantised(kind, model, about, len(images))


def _module(kind: Format) -> ModuleType:
    """The file that quantises a format."""
    from accuracy_booster.deploy import quantising_onnx, quantising_openvino

    return {"onnx": quantising_onnx, "openvino": quantising_openvino}[kind.name]


def _checked(batches: Iterable[np.ndarray], size: tuple[int, int, int]) -> np.ndarray:
    """The images of all batches, float32 [N, C, H, W]."""
    parts = [np.asarray(batch) for batch in batches]
    for part in parts:
        if part.dtype != np.float32 or part.shape[1:] != tuple(size):
            raise ValueError(
                f"a calibration batch is {part.dtype} {list(part.shape)}, and the network takes "
                f"float32 [N, {', '.join(map(str, size))}]; normalise the images first"
            )
    if (count := sum(map(len, parts))) < LEAST:
        raise ValueError(
            f"{count} calibration images are too few to know the range of each map; give {LEAST} "
            "or more, best some hundred of the training images"
        )
    return np.concatenate(parts)
