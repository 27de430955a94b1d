"""What stands around the places of gates: the convolution before, the sum and the ReLU after."""

# N batch, C channels, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accuracy_booster.surgery.attaching import disabled
from accuracy_booster.surgery.examples import infer_examples
from accuracy_booster.surgery.finding import residual_sites
from accuracy_booster.surgery.inputs import Example, as_inputs
from accuracy_booster.surgery.quiet_passes import traced
from accuracy_booster.surgery.torch_functions import NORMS, SUMS
from accuracy_booster.surgery.trace import Call, Value

# what a norm can be folded into, and a gate computed before; `linear` where it gives [N, C]
LAYERS = {"conv1d", "conv2d", "conv3d", "linear"}


@dataclass(frozen=True)
class Flow:
    """The output of the module `name` in one pass.

    Attributes:
        call: the function of torch that gives it ("batch_norm", "conv2d", ...), if it ran inside
            that very module and once; else "".
        shape: [N, C, ...] of the output.
        conv: of a norm, the name of the convolution or linear layer whose output it alone reads;
            else None.
        input_shape: of what that layer (this or the one before the norm) reads.
        then: "sum" if its only user is a sum of two equal maps, "relu" if only a ReLU follows that,
            else "".
        around: the other modules whose output it is, those that hand it on (nn.Identity) too.
        adder: the module in which that sum runs.
    """

    name: str
    call: str
    shape: tuple[int, ...]
    conv: str | None
    input_shape: tuple[int, ...] | None
    then: str
    around: tuple[str, ...]
    adder: str | None


class Flows:
    """The flow around each module, found from one pass without gates; nothing changes."""

    def __init__(self, model: nn.Module, example: Example | None = None):
        if example is not None:
            as_inputs(example)  # refuses what is none
        examples: list[Any] = infer_examples(model) if example is None else [example]
        with disabled(model):
            self.trace = traced(model, examples)
        shape = self.trace.values[0].shape  # of the one that the network could take
        self.example: Any = torch.zeros(shape) if example is None else example
        self._outputs: dict[str, Value] = {}
        for value in self.trace.values:
            self._outputs |= dict.fromkeys(value.modules, value)

    def sites(self) -> list[str]:
        """Where gates would go: the last modules of residual branches, in order of execution."""
        return [found.site.name for found in residual_sites(self.trace) if found.site]

    def norms_after_convs(self) -> Iterator[tuple[str, str]]:
        """(layer, norm) for each convolution or linear layer whose output one norm alone reads."""
        for value in self.trace.values:
            call = value.call
            if call is not None and call.name in NORMS and call.module and call.outputs[0] is value:
                conv = self._conv_before(call)
                if conv and conv.module and self._ran_once(call.module):
                    yield conv.module, call.module

    def of(self, name: str) -> Flow | None:
        """The flow around a module; None if it did not run, or its output is no map."""
        value = self._outputs.get(name)
        if value is None or not 2 <= len(value.shape) <= 5 or value.call is None:
            return None
        call = value.call
        own = call.name if call.module == name and self._ran_once(name) else ""
        conv = call if own in LAYERS else None
        if own in NORMS:
            conv = self._conv_before(call)
        return Flow(
            name=name,
            call=own,
            shape=value.shape,
            conv=conv.module if conv and own in NORMS else None,
            input_shape=conv.inputs[0].shape if conv else None,
            then=(then := self._after(value)),
            adder=value.users[0].module if then else None,
            around=tuple(n for n in (*value.modules, *value.through) if n != name),
        )

    def _ran_once(self, name: str) -> bool:
        return self.trace.calls_of.get(name) == 1

    def _conv_before(self, norm: Call) -> Call | None:
        """The convolution whose output the norm alone reads, if its module ran once."""
        before = norm.inputs[0]
        conv = before.call
        alone = len(norm.inputs) == 1 and self._is_read_once(before)
        if conv is None or conv.name not in LAYERS or not conv.module or not alone:
            return None
        if conv.name == "linear" and len(before.shape) != 2:
            return None  # a batch norm takes the second dimension for channels, not the last
        return conv if self._ran_once(conv.module) and len(conv.inputs) == 1 else None

    def _after(self, value: Value) -> str:
        if not self._is_read_once(value) or value.users[0].name not in SUMS:
            return ""
        call = value.users[0]
        if len(call.inputs) != 2 or call.inputs[0].shape != call.inputs[1].shape:
            return ""
        total = call.outputs[0]
        users = [u for u in total.users if self.trace.is_live(u)]
        alone = len(users) == 1 and not self.trace.is_returned(total)
        return "relu" if alone and users[0].name in ("relu", "relu_") else "sum"

    def _is_read_once(self, value: Value) -> bool:
        return len(value.users) == 1 and not self.trace.is_returned(value)
