"""`ab.export`: a run or a network becomes a file that another runtime runs, checked and timed."""

# N images, C channels, H W space, K classes

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster.deploy import subjects
from accuracy_booster.deploy.parity import TOLERANCE, Parity, compare
from accuracy_booster.deploy.timing import FILE, Latency, opponents, time_files
from accuracy_booster.deploy.writing import check_opset, converted
from accuracy_booster.errors import FailsParity, shown
from accuracy_booster.exported.about import About
from accuracy_booster.exported.formats import Format, format_named, format_of
from accuracy_booster.exported.sessions import open_file
from accuracy_booster.fastpath import fold
from accuracy_booster.fastpath.packing import Kernel
from accuracy_booster.files import check_folder
from accuracy_booster.progress import bars
from accuracy_booster.tables import Table
from accuracy_booster.training.train_result import TrainResult, place_of

NAME = "model"  # of the file that is written into a run's directory
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
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    parity: Parity
    latency: tuple[Latency, ...]
    about: About = field(repr=False)

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
        model: the network itself, for a run that trained one of your own: as for `ab.train`.
        data, data_dir: where the run's data are now, if they have moved.

    Raises:
        ValueError: for an unknown format or opset, a package that is missing (the error says what
            to install), a directory without a finished run, a module that does not say how its
            images are made, and a network that the exporter of the format cannot write.
        FailsParity: if the file's outputs differ by more than the tolerance; it is a RuntimeError.
    """
    network = place_of(network)
    path, kind = _path_and_format(network, output, format)
    kind.check_writers()
    check_opset(opset, kind)
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
        subject = subjects.of_module(network, images=images)
    else:
        raise ValueError(f"expected a run's directory or a network, got {type(network).__name__}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        file = Path(folder, path.name)
        parity, latency, about = _write(
            *(subject, kind, file, count, tolerance, seconds, kernel),
            sizes=() if batch_sizes is None else batch_sizes if batch is None else (batch,),
            batch=batch,
            opset=opset,
        )
        files = _in_place(file, path)
    size = sum(file.stat().st_size for file in files)
    return Exported(path, files, size, parity, latency, about)


def _write(
    subject: subjects.Subject,
    kind: Format,
    file: Path,
    count: int,
    tolerance: float,
    seconds: float,
    kernel: Kernel,
    *,
    sizes: Sequence[int],
    **how: Any,
) -> tuple[Parity, tuple[Latency, ...], About]:
    """Write the file, with what was measured in its texts."""
    network, batch = subject.network, how["batch"]
    packages = {name: version(name) for name in dict.fromkeys((*kind.writers, kind.runtime))}
    about = replace(subject.about, batch=batch, versions={**subject.about.versions, **packages})
    example = torch.zeros(batch or 2, *about.input_size)

    def checked() -> Parity:
        run, images = open_file(file), subject.images(count)
        parity = compare(network, run, images, subject.source, batch=batch)
        if parity.max_error <= tolerance:
            return parity
        raise FailsParity(
            f"the exported file is not kept: its outputs differ by {parity.max_error:.2g} of the "
            f"largest output, more than tolerance={tolerance:.2g} ({parity.source}); try another "
            "format or opset"
        )

    with bars() as progress:
        task = progress.add_task("Exporting", total=4, note="folding")

        def step(note: str) -> None:
            progress.update(task, advance=1, note=note)

        folded = fold(network, example=example, kernel=kernel)
        step(f"converting to {kind.name}")
        save = converted(folded, kind, about.input_size, **how)
        save(file, about)
        step("comparing the outputs")
        parity = checked()
        metrics = {**about.metrics, "parity": asdict(parity)}
        latency: tuple[Latency, ...] = ()
        step("timing")
        if sizes:
            files = {FILE: file}
            for number, (name, other) in enumerate(opponents(network, example).items()):
                files[name] = file.with_name(f"other-{number}{kind.suffix}")
                converted(other, kind, about.input_size, **how)(files[name], about)
            latency = time_files(files, about, sizes, seconds)
            metrics["latency"] = [row.to_dict() for row in latency]
        about = replace(about, metrics=metrics)
        save(file, about)
        checked()  # the file that stays
    return parity, latency, about


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
    kind = format_of(path) if name is None else format_named(name)
    if format_of(path) is not kind:
        raise ValueError(
            f"output={shown(str(path))} must end with {kind.suffix}, as files of the format "
            f"{kind.name} do"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a directory; name a file, such as {path / NAME}{kind.suffix}")
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
