"""A network compiled ahead of time, by AOTInductor: one file that C++ runs, without Python.

The file holds a shared library with the network's code and its weights, which are constants. The
code is for the kind of processor that compiled it. There are two kinds of files:

- From a network that was folded with `kernel="off"`, all operators are torch's own.
- A network whose convolutions run in the kernel of this package keeps them there. The kernel is a
  second file, a shared library beside the first one, and a C++ program loads it first (`dlopen`).
"""

# N images, C channels, H W space, K classes

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from accuracy_booster.deploy.parity import TOLERANCE, compare
from accuracy_booster.errors import FailsParity, shown
from accuracy_booster.exported.about import About
from accuracy_booster.exported.formats import format_named, format_of
from accuracy_booster.exported.sessions import KERNEL, KEY, Session, open_file
from accuracy_booster.fastpath.compiled import compiling
from accuracy_booster.fastpath.opponent import freezing
from accuracy_booster.fastpath.packed_modules import PackedConv2d
from accuracy_booster.ops import native_code, packed_conv
from accuracy_booster.training.file_network import FileNetwork

Save = Callable[[Path, About], None]
METADATA = "_metadata.json"  # the end of the names of a package's members that hold texts
IMAGES = 4  # on so many the outputs of two files are compared


class ChannelsLast(nn.Module):
    """A network that gets its images [N, C, H, W] in channels-last memory.

    The kernel reads maps in this order. The compiler keeps the order that maps have.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images.contiguous(memory_format=torch.channels_last))


def kernel_of(path: Path) -> Path:
    """Where the kernel of this package lies, of a file that needs it: model.aoti.so."""
    return path.with_suffix(".so")


def converted(network: nn.Module, example: torch.Tensor, shapes: Any) -> Save:
    """Export and compile a network, once.

    Args:
        network: images [N, C, H, W] to logits [N, K], in eval mode, float32, on the CPU. Where
            `ab.fold` put convolutions into our kernel, they stay there.
        example: images, float32.
        shapes: their dimensions that vary, as for `torch.export.export`; None if all are fixed.

    Returns:
        What writes the file: `save(path, about)`. The name must end with .pt2. It can be called
        again with other texts. With our kernel, `kernel_of(path)` is written too.

    Raises:
        RuntimeError: if torch cannot export or compile it here, for instance without a compiler.
    """
    if not any(isinstance(module, PackedConv2d) for module in network.modules()):
        return compiled(torch.export.export(network, (example,), dynamic_shapes=shapes))
    with torch.no_grad(), compiling():
        ordered = ChannelsLast(network).eval()
        program = torch.export.export(ordered, (example,), dynamic_shapes=shapes)
        members = _compile(program)
    kernel = native_code.compiled(packed_conv.SOURCE, with_torch=True)

    def save(path: Path, about: About) -> None:
        _write(members, path, about, {KERNEL: kernel_of(path).name})
        shutil.copyfile(kernel, kernel_of(path))

    return save


def compiled(program: ExportedProgram) -> Save:
    """Compile a program of torch's own operators, once.

    Args:
        program: images [N, C, H, W] to logits [N, K], in eval mode, on the CPU.

    Returns:
        What writes the file, as for `converted`.

    Raises:
        RuntimeError: if torch cannot compile it here, for instance without a compiler.
    """
    with torch.no_grad(), freezing():
        members = _compile(program)
    return lambda path, about: _write(members, path, about, {})


def laid_out_for(batch: int | None) -> int | None:
    """For how many threads the weights of a file for `batch` images are laid out here; or None."""
    return None if batch is None else torch.get_num_threads()


def compile_file(source: str | Path, output: str | Path | None = None) -> Path:
    """Compile a file .pt2 that `ab.export` wrote, for this machine, with the same texts.

    The outputs of both files are compared on random images.

    Args:
        source: the file .pt2, of the format torch.
        output: the new file; by default beside the other, with the suffix .aoti.pt2.

    Returns:
        The path of the new file.

    Raises:
        ValueError: for a file that is not of the format torch, is damaged, or was not written by
            `ab.export`; and for an output with another suffix.
        RuntimeError: if torch cannot compile it here, or (FailsParity) if the outputs differ by
            more than 1e-4 of the largest. Then no file is left.
    """
    source = Path(source).expanduser()
    suffix = format_named("aoti").suffix
    if format_of(source).name != "torch":
        raise ValueError(
            f"{shown(str(source))} is of the format {format_of(source).name}, and torch compiles "
            "its own programs; export the run with the format torch"
        )
    path = source.with_suffix(suffix) if output is None else Path(output).expanduser()
    if not path.name.lower().endswith(suffix):
        raise ValueError(f"output={shown(str(path))} must end with {suffix}")
    session = open_file(source)
    save = compiled(torch.export.load(source))
    with tempfile.TemporaryDirectory(prefix=".compile-", dir=path.parent) as folder:
        file = Path(folder, path.name)
        save(file, replace(session.about, threads=laid_out_for(session.about.batch)))
        _check_outputs(session, open_file(file))
        os.replace(file, path)
    return path


def _check_outputs(program: Session, package: Session) -> None:
    """Raise FailsParity if the outputs of two files differ on random images."""
    network, about = FileNetwork(program), program.about
    images = torch.randn(IMAGES, *about.input_size, generator=torch.Generator().manual_seed(0))
    parity = compare(network, package, images, "random images", batch=about.batch)
    if parity.max_error > TOLERANCE:
        raise FailsParity(
            f"the compiled file is not kept: its outputs differ from those of {program.path} "
            f"by {parity.max_error:.2g} of the largest, more than {TOLERANCE:.2g}"
        )


Members = list[tuple[zipfile.ZipInfo, bytes]]


def _compile(program: ExportedProgram) -> Members:
    """The members of AOTInductor's package, a ZIP archive."""
    from torch._inductor import aoti_compile_and_package

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.pt2")
        aoti_compile_and_package(
            program, package_path=str(file), inductor_configs={"aot_inductor.metadata": {}}
        )
        with zipfile.ZipFile(file) as package:
            return [(member, package.read(member)) for member in package.infolist()]


def _write(members: Members, path: Path, about: About, more: dict[str, str]) -> None:
    """Write the package with our texts among its own."""
    texts = {f"{KEY}.{name}": text for name, text in (about.to_texts() | more).items()}
    with zipfile.ZipFile(path, "w") as package:  # not compressed, as torch writes it
        for member, data in members:
            if member.filename.endswith(METADATA):
                data = json.dumps(json.loads(data) | texts).encode()
            package.writestr(member, data)
