"""Where channels of a network can be removed, and which modules lose them together.

Two places: the end of a residual branch, whose removed channels become zeros in the sum; and the
maps inside a branch, between two layers, where only modules stand that act channel by channel.
"""

# N batch, C channels, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from accuracy_booster.fastpath.folding import LAYERS, NORMS
from accuracy_booster.fastpath.neighbours import LAYERS as CALLS
from accuracy_booster.fastpath.neighbours import Flows
from accuracy_booster.fastpath.scalable_layers import computes_as
from accuracy_booster.fastpath.timm_norms import after_norm, norm_act_classes
from accuracy_booster.pruning.pruned_modules import why_not_gate
from accuracy_booster.surgery.attaching import attached
from accuracy_booster.surgery.gated import ungated_class
from accuracy_booster.surgery.hooks import is_hooked
from accuracy_booster.surgery.inputs import Example
from accuracy_booster.surgery.torch_functions import ACTIVATIONS, POOLS
from accuracy_booster.surgery.trace import Call, Value

# functions that act on each channel alone, beside activations, norms and depthwise convolutions
ALONE = POOLS | {"clamp", "clamp_", "clip", "pad", "constant_pad_nd", "contiguous", "clone"}
ALONE |= {"dropout", "feature_dropout", "dropout1d", "dropout2d", "dropout3d"}


@dataclass(frozen=True)
class Cut:
    """Channels that can be removed together.

    Attributes:
        name: of a branch's end, the site; of an inner map, the layer that gives it.
        producer: the layer that gives the channels.
        followers: modules with parameters per channel that the map passes (norms, ...).
        gates: the sites of gates on the map.
        consumer: the layer that reads the channels; None at the end of a branch.
        norm: the norm that scales the channels last, if no layer follows it.
        channels: C.
        blocks: equal runs of channels that must keep the same number (the layers' groups).
        space: how many dimensions follow the channels.
    """

    name: str
    producer: str
    followers: tuple[str, ...]
    gates: tuple[str, ...]
    consumer: str | None
    norm: str | None
    channels: int
    blocks: int
    space: int


@dataclass(frozen=True)
class Whole:
    """Channels that stay as they are, and why."""

    name: str
    channels: int
    reason: str


class Refused(Exception):
    """Why channels cannot be removed."""


class Cuts:
    """The cuts of one network, found from one pass; nothing changes."""

    def __init__(self, model: nn.Module, example: Example | None):
        self.flows = Flows(model, example)
        self.trace = self.flows.trace
        self.gates = attached(model)
        self.modules = dict(model.named_modules())
        self.norm_after = dict(self.flows.norms_after_convs())
        self.sites = list(self.gates) or self.flows.sites()
        self._outputs: dict[str, Value] = {}
        for value in self.trace.values:
            self._outputs |= dict.fromkeys([*value.modules, *value.through], value)
        users = Counter(id(p) for m in self.modules.values() for p in m._parameters.values())
        self._tied = {key for key, count in users.items() if count > 1}

    def outputs(self) -> Iterator[Cut | Whole]:
        """The ends of residual branches: what the gates scale, or would scale."""
        for site in self.sites:
            try:
                yield self._output(site)
            except Refused as e:
                yield Whole(site, self._channels(site), str(e))

    def inner(self) -> Iterator[Cut | Whole]:
        """The maps between two layers of a residual branch, from its end to its beginning."""
        seen: set[str] = set()
        for site in self.sites:
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
        flow, gate = self.flows.of(site), self.gates.get(site)
        if not site:
            raise Refused("it is the whole network")
        if flow is None:
            raise Refused("it did not run in the pass, or gave no feature map")
        if not flow.call:
            raise Refused("it runs several times in a pass, or a module inside it gives its output")
        if is_hooked(self.modules[site]):
            raise Refused(f"a hook reads {site!r}")
        producer = site
        followers: tuple[str, ...] = ()
        if flow.call not in CALLS:
            self._check_norm(site)
            if flow.conv is None:
                raise Refused("no convolution or linear layer alone feeds its norm")
            producer, followers = flow.conv, (site,)
        self._check_layer(producer)
        layer = self.modules[producer]
        last = isinstance(layer, nn.Linear) and len(flow.shape) > 2
        if gate is not None and last is not (gate.layout == "NHWC" and len(flow.shape) > 2):
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
            blocks=self._blocks(producer),
            space=0 if last else len(flow.shape) - 2,
        )

    def _inner(self, before: Call, steps: list[Call], passed: list[Value], call: Call) -> Cut:
        producer, consumer = before.module, call.module
        for name in (producer, consumer):
            self._check_layer(name)
        assert producer is not None
        assert consumer is not None
        shape = passed[-1].shape
        linear = [isinstance(self.modules[n], nn.Linear) for n in (producer, consumer)]
        if linear[0] is not linear[1] or len(shape) != len(passed[0].shape):
            raise Refused(f"{producer!r} and {consumer!r} have their channels at different places")
        last = linear[0] and len(shape) > 2
        if last and any(step.name not in ACTIVATIONS or step.learned for step in steps):
            raise Refused(f"more than an activation stands between {producer!r} and {consumer!r}")
        around = {n for value in passed for n in (*value.modules, *value.through, *value.parts_of)}
        around |= {n for n, value in self.trace.input_of.items() if value in passed}
        if hooked := sorted(n for n in around if is_hooked(self.modules[n])):
            raise Refused(f"a hook reads {hooked[0]!r}")
        gates = [n for value in passed for n in (*value.modules, *value.through) if n in self.gates]
        for site in gates:
            if reason := why_not_gate(self.gates[site]):
                raise Refused(f"at {site!r}, {reason.partition(';')[0]}")
        followers = [step for step in steps if step.name == "batch_norm" or step.name in CALLS]
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
            blocks=self._blocks(producer, consumer),
            space=0 if last else len(shape) - 2,
        )

    def _layer_before(
        self, value: Value, end: Value
    ) -> tuple[Call | None, list[Call], list[Value]]:
        """The layer that gives a map, the steps after it (the latest first), and the maps between.

        No layer where the branch begins.
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
            if call.name in CALLS and not self._is_depthwise(call):
                return call, steps, passed
            self._check_step(call, value)
            steps.append(call)
            value = call.inputs[0]
            passed.append(value)

    def _is_read_outside(self, value: Value, end: Value) -> bool:
        """Whether a map is read by more than the branch, as the branch's input is."""
        live = [user for user in value.users if self.trace.is_live(user)]
        outside = any(not any(o.flows_into(end) for o in user.outputs) for user in live)
        return outside or self.trace.is_returned(value)

    def _is_depthwise(self, call: Call) -> bool:
        layer = self.modules.get(call.module or "")
        conv = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        return conv and layer.groups == layer.in_channels == layer.out_channels  # type: ignore[union-attr]

    def _check_step(self, call: Call, value: Value) -> None:
        """Raise Refused for a step that does not act on each channel alone."""
        name, before = call.name.rstrip("_"), call.inputs[0].shape
        if len(call.inputs) != 1:
            raise Refused(f"{name} joins the map with another one")
        if before[:2] != value.shape[:2] or len(before) != len(value.shape):
            raise Refused(f"{name} changes its channels")
        if call.name in ACTIVATIONS and not call.learned:
            return
        if call.name == "batch_norm":
            return self._check_norm(call.module)
        if call.name in CALLS:
            return self._check_layer(call.module)
        module = self.modules.get(call.module or "")
        if call.name in ALONE and not call.learned:
            return None
        if type(module) is nn.PReLU and self._runs_once(call.module) and not is_hooked(module):
            return None
        raise Refused(f"{name} stands in its way, which is not known to act on each channel alone")

    def _runs_once(self, name: str | None) -> bool:
        """Whether a module runs once, with weights of its own."""
        if name is None or self.trace.calls_of.get(name) != 1:
            return False
        return not any(id(p) in self._tied for p in self.modules[name].parameters(recurse=False))

    def _check_layer(self, name: str | None) -> None:
        """Raise Refused for what is no plain convolution or linear layer that runs once."""
        if name is None or not self._runs_once(name):
            raise Refused(f"{name or 'a function'!r} runs several times, or shares its weights")
        module = self.modules[name]
        own = ungated_class(module)
        kind = next((kind for kind in LAYERS if isinstance(module, kind)), None)
        plain = kind is not None and computes_as(own, kind)
        usual = set(module._parameters) == {"weight", "bias"} and not module._buffers
        if not plain or not usual or "forward" in module.__dict__:
            raise Refused(f"{name!r} is a {own.__name__} with a forward or weights of its own")
        if is_hooked(module):
            raise Refused(f"a hook reads {name!r}")

    def _check_norm(self, name: str | None) -> None:
        """Raise Refused for what is no plain batch norm that runs once."""
        if name is None or not self._runs_once(name):
            raise Refused(f"{name or 'a function'!r} runs several times, or shares its weights")
        module = self.modules[name]
        own = ungated_class(module)
        if own not in (*NORMS, *norm_act_classes()) or "forward" in module.__dict__:
            raise Refused(f"a {own.__name__} is no plain convolution, linear layer or batch norm")
        if module.running_mean is None or set(module._parameters) != {"weight", "bias"}:
            raise Refused(f"the norm {name!r} is parametrised or has no running statistics")
        if any(True for step in after_norm(module) for _ in step.parameters()):
            raise Refused(f"the activation inside {name!r} has parameters")
        if is_hooked(module):
            raise Refused(f"a hook reads {name!r}")

    def _blocks(self, *names: str) -> int:
        groups = math.lcm(*(getattr(self.modules[name], "groups", 1) for name in names))
        channels = self._channels(names[0])
        if channels % groups or channels == groups:
            raise Refused(f"{groups} groups of {channels} channels have none that can go alone")
        return groups
