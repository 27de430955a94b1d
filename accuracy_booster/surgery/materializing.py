"""`ab.materialize`: the same network with each gate as an ordinary module in its tree."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import cast

from torch import nn

from accuracy_booster.surgery.attaching import attached, detach
from accuracy_booster.surgery.attention import Replaced
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.repairing import Model, refuse_lost_gates, repair
from accuracy_booster.surgery.state import state_of

BASE = "base"


def materialize(model: Model) -> tuple[Model, dict[str, str]]:
    """Copy a boosted network with gates as ordinary modules, for tools that rewrite networks.

    The module `m` of each gate becomes `Sequential(base=m, recalibrate=gate)`. The copy computes
    what the network computes, without changed classes or hooks. Tools that fuse, quantise or trace
    a network by its module tree see each step. `ab.save`, `ab.unboost` and the like work on the
    network itself, not on the copy.

    Args:
        model: a boosted network, not fused or folded.

    Returns:
        The copy, and {name in the network's state dict: name in the copy's}.

    Raises:
        ValueError: for a network without gates, or a fused or folded one.
        RuntimeError: if the module of a gate was removed.
    """
    refuse_lost_gates(model)
    if not attached(model):
        raise ValueError(f"{type(model).__name__} has no gates; boost it first")
    report = state_of(model).fast_path
    if report is not None:
        remedy = "call ab.unfuse(model) first" if report.kind == "fused" else "use the boosted one"
        raise ValueError(f"{type(model).__name__} is {report.kind}; {remedy}")
    new = copy.deepcopy(model)
    repair(new)
    before = _names(new)
    gates = attached(new)
    modules = dict(new.named_modules())
    detach(new)
    for name, gate in gates.items():
        module = modules[name]
        if isinstance(module, Replaced):  # an attention module that boosting took away
            module = nn.Identity()
        steps = nn.Sequential(OrderedDict([(BASE, module), (ATTRIBUTE, gate)]))
        steps.training = modules[name].training
        if not name:
            new = cast(Model, steps)
        for parent in modules.values():
            for child, other in parent._modules.items():
                if other is modules[name]:
                    parent._modules[child] = steps
    after = _names(new)
    pairs = (zip(names, after[key], strict=True) for key, names in before.items())
    return new, dict(pair for group in pairs for pair in group)


def _names(model: nn.Module) -> dict[int, list[str]]:
    """{id of a tensor: its names in the state dict}. Tied weights have several names."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return names
