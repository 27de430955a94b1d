"""`ab.export`: a run or a network becomes a file that another runtime runs, checked and timed."""

# N images, C channels, H W space, K classes

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from accuracy_booster.deploy import subjects
from accuracy_booster.deploy.int8 import CALIBRATION, MAX_DROP, Int8
from accuracy_booster.deploy.making import Checks, How, Int8Settings, Timing, make
from accuracy_booster.deploy.parity import TOLERANCE, Parity
from accuracy_booster.deploy.quantising import PRECISIONS, check_int8
from accuracy_booster.deploy.timing import FILE, Latency
from accuracy_booster.deploy.writing import check_opset
from accuracy_booster.errors import shown, unknown
from accuracy_booster.exported.about import About
from accuracy_booster.exported.formats import NAME, Format, format_named, format_of
from accuracy_booster.fastpath.packing import KERNELS, Kernel
from accuracy_booster.files import check_folder
from accuracy_booster.tables import Table
from accuracy_booster.training.train_result import TrainResult, place_of

BATCH_SIZES = (1, 16)


@dataclass(frozen=True)
class Exported:
    """What `ab.export` wrote and measured.

    Attributes:
        path: the file.
        files: all files, the largest of which holds the weights.
        size: bytes of all files.
        parity: how far the file's outputs are from the network's.
        latency: of the file and of what it is compared with, for each batch size; empty if it was
            not measured.
        about: what the file says of itself.
        int8: what an int8 file costs in accuracy; None for a file in float32.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    parity: Parity
    latency: tuple[Latency, ...]
    about: About = field(repr=False)
    int8: Int8 | None = None

    def table(self) -> Table:
        """The latency as a table, a row for each batch size."""
        others = list(self.latency[0].ratios)
        header = ["images", "this file, ms", *(f"{name}, ms" for name in others)]
        header += [f"this file / {name}" for name in others]
        rows = [
            [str(row.batch)]
            + [f"{row.times[name]:.4g}" for name in (FILE, *others)]
            + [f"{row.ratios[name]:.2f}" for name in others]
            for row in self.latency
        ]
        return Table(header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "files": [str(file) for file in self.files],
            "bytes": self.size,
            "parity": asdict(self.parity),
            "latency": [row.to_dict() for row in self.latency],
            "int8": None if self.int8 is None else self.int8.to_dict(),
        }


def export(
    network: str | Path | nn.Module | TrainResult,
    output: str | Path | None = None,
    *,
    format: str | None = None,
    opset: int | None = None,
    batch: int | None = None,
    images: Any = None,
    count: int = 64,
    tolerance: float = TOLERANCE,
    batch_sizes: Sequence[int] | None = BATCH_SIZES,
    seconds: float = 3.0,
    kernel: Kernel = "off",
    precision: str = "float32",
    calibration: int = CALIBRATION,
    max_drop: float = MAX_DROP,
    model: Any = None,
    data: Any = None,
    data_dir: str | None = None,
) -> Exported:
    """Write a network into a file that production runs, and check the file in its own runtime.

    The network is folded first (`ab.fold`): norms are parts of convolutions, and gates are plain
    operators. The file takes normalised images, float32 [N, C, H, W], and gives logits [N, K]. It
    says in its metadata how images are made, the names of the classes, the block, the settings of
    the training, what was measured, and the versions of the packages. `ab.predict` reads all this.

    The file is run on real images in its own runtime, in batches of several sizes, before it takes
    its place. If its outputs differ from the network's, there is an error and no file.

    Args:
        network: a run's directory, or what `ab.train` returned for it; or a network that says how
            its images are made (`pretrained_cfg`), such as timm's.
        output: the file. By default "model" with the format's suffix, in the run's directory.
        format: "onnx", "openvino", "torch" (a program of `torch.export`), "aoti" (compiled ahead of
            time, for C++) or "executorch" (for phones); by default what the name of the output
            says, else "onnx".
        opset: of ONNX, from 18 on; by default torch's.
        batch: a number of images, for a file that takes no other. By default it takes any number.
        images: what the outputs are compared on, as for `ab.predict`; by default the run's test
            images, and random ones for a module.
        count: so many of them at most.
        tolerance: the largest difference of an output that is accepted, over the largest output.
        batch_sizes: for these the file is timed beside the same network without gates, exported the
            same way, and beside the network exported without folding. None: nothing is timed.
        seconds: how long each of them is timed.
        kernel: "off": all operators are the format's own. The format "aoti" can carry the CPU
            kernel of `ab.fold` along, in a second file beside the first one: "auto" or "on".
        precision: "float32", or "int8" for the formats onnx and openvino: the file is quantised by
            the runtime's own tool, and its accuracy is measured on the test images.
        calibration: with int8, on so many training images the ranges of the maps are found.
        max_drop: with int8, how many percentage points of top-1 may be lost.
        model: the network itself, for a run that trained one of your own: as for `ab.train`.
        data, data_dir: where the run's data are now, if they have moved. For a module, the data for
            int8, as `ab.evaluate` takes them.

    Raises:
        ValueError: for an unknown format or opset, a package that is missing (the error says what
            to install), a directory without a finished run, a module that does not say how its
            images are made, a network that the exporter of the format cannot write, and an int8
            file that loses too much accuracy.
        FailsParity: if the file's outputs differ by more than the tolerance; it is a RuntimeError.
    """
    network = place_of(network)
    path, kind = _path_and_format(network, output, format)
    kind.check_writers()
    check_opset(opset, kind)
    int8 = None
    if precision == "int8":
        check_int8(kind)
        where = {"model": model, "data_dir": data_dir}
        given = {name: value for name, value in where.items() if value is not None}
        int8 = Int8Settings(network, data, given, calibration, max_drop)
    elif precision != "float32":
        raise unknown("precision", precision, PRECISIONS)
    if kernel not in KERNELS:
        raise unknown("kernel", kernel, KERNELS)
    if kernel != "off" and kind.name != "aoti":
        raise ValueError(
            f"kernel={shown(kernel)} is for the format aoti: a file {kind.suffix} holds no "
            "operator of this package; leave kernel out"
        )
    _check_numbers(batch=batch, count=count, batch_sizes=batch_sizes, tolerance=tolerance)
    check_folder(path.parent)
    if isinstance(network, (str, Path)):
        subject = subjects.of_run(
            Path(network), model=model, images=images, data=data, data_dir=data_dir
        )
    elif isinstance(network, nn.Module):
        subject = subjects.of_module(network, images=images, batch=batch)
    else:
        raise ValueError(f"expected a run's directory or a network, got {type(network).__name__}")
    sizes = () if batch_sizes is None else tuple(batch_sizes) if batch is None else (batch,)
    with _folder_in(path.parent) as folder:
        file = Path(folder, path.name)
        made = make(
            *(subject, kind, file),
            how=How(batch, opset, kernel),
            checks=Checks(count, tolerance),
            timing=Timing(sizes, seconds),
            int8=int8,
        )
        files = _in_place(file, path)
    size = sum(file.stat().st_size for file in files)
    return Exported(path, files, size, *made)


def _folder_in(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """A new folder for the files until they are checked.

    Raises:
        ValueError: if it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".export-", dir=parent)
    except OSError as e:
        raise ValueError(f"cannot write to {parent}: {e.strerror}; choose another output") from e


def _path_and_format(
    network: Any, output: str | Path | None, name: str | None
) -> tuple[Path, Format]:
    """Where the file goes, and its format.

    Raises:
        ValueError: for an unknown format, or a name that ends as files of another one do.
    """
    if output is None:
        kind = format_named("onnx" if name is None else name)
        folder = Path(network) if isinstance(network, (str, Path)) else Path()
        return folder / f"{NAME}{kind.suffix}", kind
    path = Path(output).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a directory; name a file in it, such as {path / NAME}.onnx")
    kind = format_of(path) if name is None else format_named(name)
    if format_of(path) is not kind:
        raise ValueError(
            f"output={shown(str(path))} must end with {kind.suffix}, as files of the format "
            f"{kind.name} do"
        )
    return path, kind


def _check_numbers(*, batch: Any, count: Any, batch_sizes: Any, tolerance: Any) -> None:
    numbers = {"count": [count], "batch": [] if batch is None else [batch]}
    numbers["batch_sizes"] = list(batch_sizes or ())
    for name, values in numbers.items():
        for value in values:
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={shown(value)} must be a whole number >= 1")
    if not isinstance(tolerance, (int, float)) or not tolerance > 0:
        raise ValueError(f"tolerance={shown(tolerance)} must be a number > 0")


def _in_place(file: Path, path: Path) -> tuple[Path, ...]:
    """Move what was written beside `file`, by its name, to `path`; the file itself comes last."""
    parts = sorted(
        (p for p in file.parent.iterdir() if p.stem == file.stem), key=lambda p: p == file
    )
    places = tuple(path.with_name(part.name) for part in parts)
    for part, place in zip(parts, places, strict=True):
        os.replace(part, place)
    return places
