"""What stands around each module of a network: the layer before it, and the sum and ReLU after it.

Fusing, folding and pruning ask here before they change a network. Asking changes nothing.
"""

# N batch, C channels, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accuracy_booster.fastpath.epilogue import Epilogue, FollowedBy
from accuracy_booster.surgery.attaching import disabled
from accuracy_booster.surgery.examples import infer_examples
from accuracy_booster.surgery.finding import residual_sites
from accuracy_booster.surgery.inputs import Example, as_inputs
from accuracy_booster.surgery.quiet_passes import traced
from accuracy_booster.surgery.torch_functions import NORMS, SUMS
from accuracy_booster.surgery.trace import Call, Value

# functions of torch that a batch norm can be folded into
LAYER_CALLS = {"conv1d", "conv2d", "conv3d", "linear"}


@dataclass(frozen=True)
class SiteContext:
    """What one pass shows around the output of one module. Modules are given by their names.

    Attributes:
        name: the module.
        call: the function of torch that computes its output ("batch_norm", "conv2d", ...). "" if a
            module inside it calls that function, or if the module runs more than once.
        shape: [N, C, ...] of its output.
        conv: the convolution or linear layer before a norm, if the norm alone reads its output;
            else None.
        input_shape: the shape that the convolution or linear layer reads, be it `conv` or the
            module itself; None if there is none.
        followed_by, aliases, sum_owner: as in `epilogue.Epilogue`; "" and None for a module that
            runs more than once.
    """

    name: str
    call: str
    shape: tuple[int, ...]
    conv: str | None
    input_shape: tuple[int, ...] | None
    followed_by: FollowedBy
    aliases: tuple[str, ...]
    sum_owner: str | None
    input_is_kept: bool

    def epilogue(self, modules: Mapping[str, nn.Module]) -> Epilogue:
        """What follows, with the network's modules in place of their names."""
        aliases = tuple(modules[name] for name in self.aliases)
        owner = None if self.sum_owner is None else modules[self.sum_owner]
        return Epilogue(self.followed_by, aliases, owner, self.input_is_kept)


class Neighbours:
    """The `SiteContext` of each module, from one pass with the gates disabled.

    Args:
        model: a network in any mode, on any device.
        example: as for `ab.plan`.

    Attributes:
        trace: the pass.
        example: what it ran on.

    Raises:
        ValueError: if the network cannot take the example.
    """

    def __init__(self, model: nn.Module, example: Example | None = None):
        if example is not None:
            as_inputs(example)  # raises for what is no example
        examples: list[Any] = infer_examples(model) if example is None else [example]
        with disabled(model):
            self.trace = traced(model, examples)
        shape = self.trace.values[0].shape  # of the first example that the network could take
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

    def of(self, name: str) -> SiteContext | None:
        """What stands around a module; None if it did not run, or its output is no feature map."""
        value = self._outputs.get(name)
        if value is None or not 2 <= len(value.shape) <= 5 or value.call is None:
            return None
        call = value.call
        own = call.name if call.module == name and self._ran_once(name) else ""
        layer = call if own in LAYER_CALLS else None
        if own in NORMS:
            layer = self._conv_before(call)
        followed_by = self._followed_by(value) if self._ran_once(name) else ""
        return SiteContext(
            name=name,
            call=own,
            shape=value.shape,
            conv=layer.module if layer and own in NORMS else None,
            input_shape=layer.inputs[0].shape if layer else None,
            followed_by=followed_by,
            aliases=tuple(n for n in (*value.modules, *value.through) if n != name),
            sum_owner=value.users[0].module if followed_by else None,
            input_is_kept=layer is not None and self.trace.is_read_once(layer.inputs[0]),
        )

    def _ran_once(self, name: str) -> bool:
        return self.trace.calls_of.get(name) == 1

    def _conv_before(self, norm: Call) -> Call | None:
        """The convolution whose output the norm alone reads, if its module ran once."""
        before = norm.inputs[0]
        conv = before.call
        alone = len(norm.inputs) == 1 and self.trace.is_read_once(before)
        if conv is None or conv.name not in LAYER_CALLS or not conv.module or not alone:
            return None
        if conv.name == "linear" and len(before.shape) != 2:
            return None  # its channels are the last dimension, and a batch norm takes the second
        return conv if self._ran_once(conv.module) and len(conv.inputs) == 1 else None

    def _followed_by(self, value: Value) -> FollowedBy:
        if not self.trace.is_read_once(value) or value.users[0].name not in SUMS:
            return ""
        call = value.users[0]
        if len(call.inputs) != 2 or call.inputs[0].shape != call.inputs[1].shape:
            return ""
        total = call.outputs[0]
        users = [u for u in total.users if self.trace.is_live(u)]
        alone = len(users) == 1 and not self.trace.is_returned(total)
        return "relu" if alone and users[0].name in ("relu", "relu_") else "sum"
