"""The steps of an export: fold, convert, compare, time, quantise."""

# N images, C channels, H W space

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.deploy.ahead_of_time import laid_out_for
from accuracy_booster.deploy.int8 import Int8, write_int8
from accuracy_booster.deploy.parity import Parity, compare
from accuracy_booster.deploy.subjects import Subject
from accuracy_booster.deploy.timing import FILE, Latency, opponents, time_files
from accuracy_booster.deploy.writing import converted
from accuracy_booster.errors import FailsParity
from accuracy_booster.exported.about import About
from accuracy_booster.exported.formats import Format
from accuracy_booster.exported.sessions import open_file
from accuracy_booster.fastpath import fold
from accuracy_booster.fastpath.packing import Kernel
from accuracy_booster.progress import bars
from accuracy_booster.training.opening_to_measure import open_measured

FLOAT32 = "in float32"  # the variant that an int8 file is timed beside


@dataclass(frozen=True)
class How:
    """How a file is written: `batch` and `opset` as for `converted`, `kernel` as for `ab.fold`."""

    batch: int | None
    opset: int | None
    kernel: Kernel

    @property
    def conversion(self) -> dict[str, Any]:
        """The options of `converted`."""
        return {"batch": self.batch, "opset": self.opset}


@dataclass(frozen=True)
class Checks:
    """On how many images the outputs are compared, and how far they may differ."""

    images: int
    tolerance: float


@dataclass(frozen=True)
class Timing:
    """For which batch sizes the file is timed, and how long each variant; no sizes: not at all."""

    sizes: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Int8Settings:
    """What is quantised with, and measured on.

    Attributes:
        network: the run or the module, as `ab.export` got it.
        data, where: as for `open_measured`.
        calibration, max_drop: as for `write_int8`.
    """

    network: Any
    data: Any
    where: Mapping[str, Any]
    calibration: int
    max_drop: float

    def write(self, float32: Path, file: Path) -> Int8:
        """Write the int8 file of a float32 file, if it loses no more accuracy than is allowed."""
        train, test = (
            open_measured(self.network, self.data, split=split, device="cpu", **self.where)
            for split in ("train", "test")
        )
        limits = {"calibration": self.calibration, "max_drop": self.max_drop}
        return write_int8(float32, file, train, test, **limits)  # type: ignore[arg-type]


Made = tuple[Parity, tuple[Latency, ...], About, Int8 | None]


def make(
    subject: Subject,
    kind: Format,
    file: Path,
    *,
    how: How,
    checks: Checks,
    timing: Timing,
    int8: Int8Settings | None,
) -> Made:
    """Write the file of a network, and measure it.

    Args:
        file: in a folder of its own, where other files are written too.

    Raises:
        ValueError: if the network cannot be converted, or int8 loses too much.
        FailsParity: if the file's outputs differ by more than the tolerance.
    """
    network, example = subject.network, torch.zeros(how.batch or 2, *subject.about.input_size)
    packages = {name: version(name) for name in dict.fromkeys((*kind.writers, kind.runtime))}
    versions = {**subject.about.versions, **packages}
    threads = laid_out_for(how.batch) if kind.name == "aoti" else None
    about = replace(subject.about, batch=how.batch, threads=threads, versions=versions)
    latency: tuple[Latency, ...] = ()
    with bars() as progress:
        task = progress.add_task("Exporting", total=5, note="folding")

        def step(note: str) -> None:
            progress.update(task, advance=1, note=note)

        folded = fold(network, example=example, kernel=how.kernel)
        step("converting")
        save = converted(folded, kind, about.input_size, **how.conversion)
        save(file, about)
        step("comparing")
        images = subject.images(checks.images)
        parity = _checked(subject, file, images, how, checks)
        about = replace(about, metrics={**about.metrics, "parity": asdict(parity)})
        step("timing")
        if timing.sizes and int8 is None:
            files = {FILE: file}
            for number, (name, other) in enumerate(opponents(network, example).items()):
                files[name] = file.with_name(f"other-{number}{kind.suffix}")
                converted(other, kind, about.input_size, **how.conversion)(files[name], about)
            latency = time_files(files, about, timing.sizes, timing.seconds)
            rows = [row.to_dict() for row in latency]
            about = replace(about, metrics={**about.metrics, "latency": rows})
        save(file, about)
        _checked(subject, file, images, how, checks)  # the file that stays
        step("")
    if int8 is None:
        return parity, latency, about, None
    float32 = file.with_name(f"float32{kind.suffix}")
    save(float32, about)
    quantised = int8.write(float32, file)
    if timing.sizes:
        files = {FILE: file, FLOAT32: float32}
        latency = time_files(files, about, timing.sizes, timing.seconds)
    return parity, latency, open_file(file).about, quantised


def _checked(
    subject: Subject, file: Path, images: torch.Tensor, how: How, checks: Checks
) -> Parity:
    """How far a file is from the network.

    Raises:
        FailsParity: if it is further than allowed.
    """
    run = open_file(file)
    parity = compare(subject.network, run, images, subject.source, batch=how.batch)
    if parity.max_error <= checks.tolerance:
        return parity
    raise FailsParity(
        f"the exported file is not kept: its outputs differ by {parity.max_error:.2g} of the "
        f"largest output, more than tolerance={checks.tolerance:.2g} ({parity.source}); try "
        "another format or opset, unless the outputs are random or depend on other images"
    )
