"""Whether single layers, norms and steps of a network may lose channels."""

# N batch, C channels

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn

from accuracy_booster.fastpath.layer_classes import CONVOLUTIONS, is_batch_norm, layer_class
from accuracy_booster.fastpath.neighbours import LAYER_CALLS
from accuracy_booster.fastpath.timm_norms import after_norm
from accuracy_booster.surgery.gated import ungated_class
from accuracy_booster.surgery.hooks import is_hooked
from accuracy_booster.surgery.torch_functions import ACTIVATIONS, POOLS
from accuracy_booster.surgery.trace import Call, Trace, Value

# functions that act on each channel alone, beside activations, norms and depthwise convolutions
ALONE = POOLS | {"clamp", "clamp_", "clip", "pad", "constant_pad_nd", "contiguous", "clone"}
ALONE |= {"dropout", "feature_dropout", "dropout1d", "dropout2d", "dropout3d"}


class Refused(Exception):
    """Why channels cannot be removed."""


class Checks:
    """Checks on the modules and the pass of one network; those without a result raise `Refused`."""

    def __init__(self, modules: Mapping[str, nn.Module], trace: Trace):
        self._modules, self._trace = modules, trace
        users = Counter(id(p) for m in modules.values() for p in m._parameters.values())
        self._tied = {key for key, count in users.items() if count > 1}

    def layer(self, name: str | None) -> None:
        """It must be a convolution or linear layer with its own weights that runs once."""
        module = self._that_runs_once(name)
        usual = set(module._parameters) == {"weight", "bias"} and not module._buffers
        if layer_class(module) is None or not usual or "forward" in module.__dict__:
            own = ungated_class(module).__name__
            raise Refused(f"{name!r} is a {own} with a forward or weights of its own")
        if is_hooked(module):
            raise Refused(f"a hook reads {name!r}")

    def norm(self, name: str | None) -> None:
        """It must be a batch norm with its own parameters and statistics that runs once."""
        module = self._that_runs_once(name)
        if not is_batch_norm(module) or "forward" in module.__dict__:
            own = ungated_class(module).__name__
            raise Refused(f"a {own} is no plain convolution, linear layer or batch norm")
        if module.running_mean is None or set(module._parameters) != {"weight", "bias"}:
            raise Refused(f"the norm {name!r} is parametrised or has no running statistics")
        if any(True for step in after_norm(module) for _ in step.parameters()):
            raise Refused(f"the activation inside {name!r} has parameters")
        if is_hooked(module):
            raise Refused(f"a hook reads {name!r}")

    def step(self, call: Call, value: Value) -> None:
        """The call that gives this map must act on each channel alone."""
        name, before = call.name.rstrip("_"), call.inputs[0].shape
        if len(call.inputs) != 1:
            raise Refused(f"{name} joins the map with another one")
        if before[:2] != value.shape[:2] or len(before) != len(value.shape):
            raise Refused(f"{name} changes its channels")
        if call.name in ACTIVATIONS and not call.learned:
            return
        if call.name == "batch_norm":
            return self.norm(call.module)
        if call.name in LAYER_CALLS:
            return self.layer(call.module)
        module = self._modules.get(call.module or "")
        if call.name in ALONE and not call.learned:
            return
        if type(module) is nn.PReLU and self._runs_once(call.module) and not is_hooked(module):
            return
        raise Refused(f"{name} stands in its way, which is not known to act on each channel alone")

    def hooks(self, maps: Sequence[Value]) -> None:
        """No hook of somebody else may read one of the maps."""
        around = {n for value in maps for n in (*value.modules, *value.through, *value.parts_of)}
        around |= {n for n, value in self._trace.input_of.items() if value in maps}
        if hooked := sorted(n for n in around if is_hooked(self._modules[n])):
            raise Refused(f"a hook reads {hooked[0]!r}")

    def groups(self, channels: int, *names: str) -> int:
        """The common number of groups of layers; each group must be able to lose a channel."""
        groups = math.lcm(*(getattr(self._modules[name], "groups", 1) for name in names))
        if channels % groups or channels == groups:
            raise Refused(f"{groups} groups of {channels} channels have none that can go alone")
        return groups

    def is_depthwise(self, call: Call) -> bool:
        """Whether a call is that of a depthwise convolution."""
        layer = self._modules.get(call.module or "")
        if not isinstance(layer, CONVOLUTIONS):
            return False
        return layer.groups == layer.in_channels == layer.out_channels

    def _that_runs_once(self, name: str | None) -> nn.Module:
        if name is None or not self._runs_once(name):
            raise Refused(f"{name or 'a function'!r} runs several times, or shares its weights")
        return self._modules[name]

    def _runs_once(self, name: str | None) -> bool:
        """Whether a module runs once, with weights of its own."""
        if name is None or self._trace.calls_of.get(name) != 1:
            return False
        return not any(id(p) in self._tied for p in self._modules[name].parameters(recurse=False))
