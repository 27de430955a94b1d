"""Which channels of a network can be removed, and which modules lose them together.

There are two kinds. At the end of a residual branch the removed channels become zeros in the sum.
Between two layers inside a branch they are gone, if every step between the layers acts on each
channel alone.
"""

# N batch, C channels, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from accuracy_booster.fastpath.neighbours import LAYER_CALLS, Neighbours
from accuracy_booster.pruning.checks import Checks, Refused
from accuracy_booster.pruning.pruned_modules import why_not_gate
from accuracy_booster.surgery.hooks import is_hooked
from accuracy_booster.surgery.inputs import Example
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.torch_functions import ACTIVATIONS
from accuracy_booster.surgery.trace import Call, Value


@dataclass(frozen=True)
class Cut:
    """Channels that can be removed together.

    Attributes:
        name: at the end of a branch the gate's site; inside a branch the layer that gives the map.
        producer: the layer that gives the channels.
        followers: modules with parameters per channel that the map passes (norms, ...).
        gates: the sites of gates on the map.
        consumer: the layer that reads the channels; None at the end of a branch.
        norm: the norm that scales the channels last, if no layer follows it.
        channels: C.
        groups: the channels are this many equal runs, as in a grouped convolution. Each run must
            keep the same number.
        space: how many dimensions follow the channels.
    """

    name: str
    producer: str
    followers: tuple[str, ...]
    gates: tuple[str, ...]
    consumer: str | None
    norm: str | None
    channels: int
    groups: int
    space: int


@dataclass(frozen=True)
class Whole:
    """Channels that stay as they are, and why. The name is that of a `Cut`."""

    name: str
    channels: int
    reason: str


class Cuts:
    """The cuts of one network, found from one pass; nothing changes.

    Args:
        model: the network.
        example: as for `ab.plan`.

    Attributes:
        gates: {site: its gate}.
        modules: {name: module}.
        norm_after: {layer: the norm that alone reads its output}.
    """

    def __init__(self, model: nn.Module, example: Example | None):
        self.gates = attached(model)
        self.modules = dict(model.named_modules())
        self._neighbours = Neighbours(model, example)
        self._trace = self._neighbours.trace
        self.norm_after = dict(self._neighbours.norms_after_convs())
        self._sites = list(self.gates) or self._neighbours.sites()
        self._check = Checks(self.modules, self._trace)
        self._outputs: dict[str, Value] = {}
        for value in self._trace.values:
            self._outputs |= dict.fromkeys([*value.modules, *value.through], value)

    def outputs(self) -> Iterator[Cut | Whole]:
        """The ends of residual branches: what the gates scale, or would scale."""
        for site in self._sites:
            try:
                yield self._output(site)
            except Refused as e:
                yield Whole(site, self._channels(site), str(e))

    def inner(self) -> Iterator[Cut | Whole]:
        """The maps between two layers of a residual branch, from its end to its beginning."""
        seen: set[str] = set()
        for site in self._sites:
            name, channels = site, self._channels(site)
            try:
                end = self._outputs.get(site)
                if end is None:
                    raise Refused("it did not run in the pass, or gave no feature map")
                call = self._layer_before(end, end)[0]
                while call is not None and (name := call.module or name) not in seen:
                    seen.add(name)
                    read = call.inputs[0]
                    channels = read.shape[1]
                    before, steps, passed = self._layer_before(read, end)
                    if before is not None:
                        yield self._inner(before, steps, passed, call)
                    call = before
            except Refused as e:
                what = "" if name == site and not seen else "what it reads stays whole: "
                yield Whole(name, channels, f"{what}{e}")

    def _channels(self, name: str) -> int:
        module = self.modules[name]
        for attribute in ("out_channels", "out_features", "num_features"):
            if isinstance(found := getattr(module, attribute, None), int):
                return found
        return self.gates[name].channels if name in self.gates else 0

    def _output(self, site: str) -> Cut:
        """The cut at a site.

        Raises:
            Refused: if no channel can be removed there.
        """
        context, gate = self._neighbours.of(site), self.gates.get(site)
        if not site:
            raise Refused("it is the whole network")
        if context is None:
            raise Refused("it did not run in the pass, or gave no feature map")
        if not context.call:
            raise Refused("it runs several times in a pass, or a module inside it gives its output")
        if is_hooked(self.modules[site]):
            raise Refused(f"a hook reads {site!r}")
        producer = site
        followers: tuple[str, ...] = ()
        if context.call not in LAYER_CALLS:
            self._check.norm(site)
            if context.conv is None:
                raise Refused("no convolution or linear layer alone feeds its norm")
            producer, followers = context.conv, (site,)
        self._check.layer(producer)
        layer = self.modules[producer]
        last = isinstance(layer, nn.Linear) and len(context.shape) > 2
        if gate is not None and last is not (gate.layout == "NHWC" and len(context.shape) > 2):
            raise Refused(f"its gate is for maps {gate.layout}, and its layer gives others")
        if gate is not None and (reason := why_not_gate(gate)):
            raise Refused(reason)
        return Cut(
            name=site,
            producer=producer,
            followers=followers,
            gates=() if gate is None else (site,),
            consumer=None,
            norm=site if followers else None,
            channels=self._channels(producer),
            groups=self._check.groups(self._channels(producer), producer),
            space=0 if last else len(context.shape) - 2,
        )

    def _inner(self, before: Call, steps: list[Call], passed: list[Value], call: Call) -> Cut:
        """The cut between two layers.

        Args:
            before: the call of the first layer.
            steps: what runs between the layers, the latest first.
            passed: the maps between them, the latest first.
            call: that of the second layer.

        Raises:
            Refused: if no channel can be removed there.
        """
        producer, consumer = before.module, call.module
        for name in (producer, consumer):
            self._check.layer(name)
        assert producer is not None
        assert consumer is not None
        shape = passed[-1].shape
        linear = [isinstance(self.modules[n], nn.Linear) for n in (producer, consumer)]
        if linear[0] is not linear[1] or len(shape) != len(passed[0].shape):
            raise Refused(f"{producer!r} and {consumer!r} have their channels at different places")
        last = linear[0] and len(shape) > 2
        if last and any(step.name not in ACTIVATIONS or step.learned for step in steps):
            raise Refused(f"more than an activation stands between {producer!r} and {consumer!r}")
        self._check.hooks(passed)
        gates = [n for value in passed for n in (*value.modules, *value.through) if n in self.gates]
        for site in gates:
            if reason := why_not_gate(self.gates[site]):
                raise Refused(f"at {site!r}, {reason.partition(';')[0]}")
        followers = [
            step for step in steps if step.name == "batch_norm" or step.name in LAYER_CALLS
        ]
        latest = next(iter(followers), None)
        learned = [step for step in steps if step in followers or step.learned]
        return Cut(
            name=producer,
            producer=producer,
            followers=tuple(dict.fromkeys(step.module for step in learned if step.module)),
            gates=tuple(dict.fromkeys(gates)),
            consumer=consumer,
            norm=latest.module if latest is not None and latest.name == "batch_norm" else None,
            channels=self._channels(producer),
            groups=self._check.groups(self._channels(producer), producer, consumer),
            space=0 if last else len(shape) - 2,
        )

    def _layer_before(
        self, value: Value, end: Value
    ) -> tuple[Call | None, list[Call], list[Value]]:
        """Go back from a map of a branch to the layer that its channels come from.

        Args:
            value: the map.
            end: the output of the branch.

        Returns:
            The layer's call, None at the beginning of the branch; the steps after it; and the maps
            between. Both lists have the latest first.

        Raises:
            Refused: if something on the way does not act on each channel alone.
        """
        steps: list[Call] = []
        passed = [value]
        while True:
            call = value.call
            if value is not end:
                if call is None or self._is_read_outside(value, end):
                    return None, steps, passed
                if len(value.users) != 1:
                    raise Refused(f"{len(value.users)} functions read what it is computed from")
            if call is None or call.outputs[0] is not value:
                raise Refused("it is computed from a part of what a function gives")
            if call.name in LAYER_CALLS and not self._check.is_depthwise(call):
                return call, steps, passed
            self._check.step(call, value)
            steps.append(call)
            value = call.inputs[0]
            passed.append(value)

    def _is_read_outside(self, value: Value, end: Value) -> bool:
        """Whether a map is read by more than the branch, as the branch's input is."""
        live = [user for user in value.users if self._trace.is_live(user)]
        outside = any(not any(o.flows_into(end) for o in user.outputs) for user in live)
        return outside or self._trace.is_returned(value)
