"""What a compiled network runs on the CPU: which convolutions are frozen, and what they join.

A frozen weight is a constant of the compiled network, laid out for the processor. A convolution
with frozen weights can add the residual sum and apply the ReLU itself.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.progress import silent_stderr

# how torch calls a convolution with frozen weights, and one without
PACKED, PLAIN = "mkldnn::_convolution_pointwise", "aten::convolution"
# what the kernels of this package begin with
OURS = "accuracy_booster::packed_conv"
MAPS = range(4, 6)  # ranks of a batch of maps with two or three dimensions of space


@dataclass(frozen=True)
class Frozen:
    """How many convolutions over 2-D and 3-D maps one call runs, and what they compute beside.

    `print` shows it as a sentence.

    Attributes:
        packed: those with frozen weights (`mkldnn::_convolution_pointwise`).
        plain: those without.
        sums: of the packed ones, those that also add a residual sum.
        relus: of the packed ones, those that also apply a ReLU.
        ours: those of this package's own kernel, whose weights are frozen too.
    """

    packed: int
    plain: int
    sums: int
    relus: int = 0
    ours: int = 0

    def __str__(self) -> str:
        every = self.packed + self.ours + self.plain
        if not every:
            return "there are no convolutions"
        words = f"{self.packed + self.ours} of {every} convolutions have frozen weights"
        kernels = []
        if self.packed:
            joined = f"{self.sums} with the residual sum, {self.relus} with the ReLU"
            kernels.append(f"{self.packed} in torch's kernel ({joined})")
        if self.ours:
            kernels.append(f"{self.ours} in our kernel")
        return f"{words}: {' and '.join(kernels)}" if kernels else words


def profile(run: Any, *example: torch.Tensor) -> Frozen:
    """Count the convolutions in one call, on the CPU."""
    run(*example)
    packed = plain = sums = relus = ours = 0
    for name, inputs in operators(run, *example):
        if name.rstrip("_") == PACKED:  # in place, into the shortcut, if the name ends in "_"
            packed += 1
            sums += "add" in inputs["values"]
            relus += "relu" in inputs["values"]
        elif name.startswith(OURS):
            ours += 1
        elif name == PLAIN:
            plain += len(inputs["shapes"][0]) in MAPS
    return Frozen(packed, plain, sums, relus, ours)


def operators(run: Any, *example: torch.Tensor) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """The name and the inputs (values, shapes, types) of each operator that a call runs."""
    observer = torch.profiler.ExecutionTraceObserver()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "operators.json")
        observer.register_callback(str(file))
        try:
            with silent_stderr():
                observer.start()
            run(*example)
        finally:
            with silent_stderr():
                observer.unregister_callback()  # it stops, too
        nodes = json.loads(file.read_text())["nodes"]
    names = {node["id"]: node["name"] for node in nodes}
    return (
        (node["name"], node["inputs"])
        for node in nodes
        if node["name"] != names.get(node["ctrl_deps"])  # not the part of it below autograd
    )


def check(found: Frozen, *, sums: bool = False) -> None:
    """Raise for a compiled network that is slower than torch can make it.

    Raises:
        ValueError: where no convolution is frozen, or with `sums` none computes a residual sum.
    """
    if found.plain and not (found.packed or found.ours):
        raise ValueError(
            f"not frozen: none of {found.plain} convolutions has constant weights in the compiled "
            f"network ({where()}), and a ratio to it would flatter a block; {REMEDY}"
        )
    if sums and not (found.sums or found.ours):
        raise ValueError(
            f"convolution and residual sum stay apart: none of {found.packed} convolutions adds "
            f"its shortcut in the compiled network ({where()}), and a ratio to it would flatter a "
            f"block; {REMEDY}"
        )


REMEDY = "oneDNN and torch.compile must be on; bench --compile off measures without the compiler"


def where() -> str:
    """The torch that compiled, for a message."""
    there = "there" if torch.backends.mkldnn.is_available() else "not there"
    return f"torch {torch.__version__}, oneDNN is {there}"
