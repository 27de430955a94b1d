"""Which module at the end of a branch gets the gate.

The gate scales the output of the branch's last layer. It stands before the trailing activations,
poolings and layer scale, whether those are functions or modules, if they keep zero: then a shut
gate shuts the branch. ReLU, SiLU and tanh keep zero, sigmoid does not. A gate before them can be
computed together with the norm, the sum and the ReLU in one pass (`ab.fuse`), and folded into the
convolution (`ab.fold`). The gate stands after the activation where the map before it is read
elsewhere too, or no module gives that map.
"""

# N batch, C channels, H W space

from __future__ import annotations

from accuracy_booster.surgery.layouts import layout_of, module_of, numel
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.torch_functions import (
    ACTIVATIONS,
    KEEPS_ZERO,
    LAYERS,
    NORMS,
    POOLS,
    PRODUCTS,
    RESHAPES,
    SLICES,
)
from accuracy_booster.surgery.trace import Call, Trace, Value


def place(end: Value, call: Call, trace: Trace) -> Site | str:
    """The site of a branch's gate, or why there is none.

    It goes back from the end of the branch over the steps that keep zero. The site is the first
    module on the way that is none of those steps; if there is no such module, the one nearest to
    the sum.

    Args:
        end: the end of the branch.
        call: the call that reads it: the sum.
    """
    value, nearest, why = end, None, "no module gives its end, which a function computes"
    # ReXNet sums some of the channels and puts the others beside them, or sums in place
    beside = ("cat", "written", "__setitem__")
    reach = [end, *(u.outputs[0] for u in call.outputs[0].users if u.name in beside)]
    while True:
        made = value.call
        outside = any(
            user is not call
            and trace.is_live(user)
            and not any(user.outputs[0].flows_into(r) for r in reach)
            for user in value.users
        )
        if outside or trace.is_returned(value):
            if value is end:
                why = "its end is read by more than the sum"
            return nearest or why
        scales = made is not None and made.name in PRODUCTS and len(made.inputs) == 1
        if not scales and (name := module_of(value, trace)) and (layout := layout_of(value)):
            site = Site.of(name, value.shape, layout)
            if not _may_follow(made):
                return site
            nearest = nearest or site
        elif value is end and (value.modules or value.parts_of):
            why = _why_no_module(value, trace)
        if made is None:
            return nearest or why
        sliced = made.name in SLICES and made.inputs[0].shape[2:] == value.shape[2:]
        resized = sliced or made.name in POOLS
        reshaped = made.name in RESHAPES and numel(made.inputs[0]) == numel(value)
        same = [
            i for i in made.inputs if resized or reshaped or sorted(i.shape) == sorted(value.shape)
        ]
        if not same or not _keeps_zero(made) or len(made.inputs) > 1 + (made.name in PRODUCTS):
            unnamed = not value.modules and not value.parts_of
            if value is end and unnamed and made.name not in LAYERS | NORMS:
                why = f"it ends in {_step(made)}, and a gate before that need not shut it"
            return nearest or why
        value = same[0]


def _step(call: Call) -> str:
    """A call in words. A write through a view is no function of torch."""
    return "a write into a part of it" if call.name == "written" else f"torch.{call.name}"


def _may_follow(call: Call | None) -> bool:
    """Whether a step may stand after the gate: an activation or a pooling that keeps zero."""
    if call is None:
        return False
    if call.name in ACTIVATIONS | POOLS:
        return True
    if call.name not in PRODUCTS or len(call.inputs) != 2:
        return False
    # `x * sigmoid(x)`, written out, is an activation if no layer and no pooling is in between
    for whole, factor in (call.inputs, call.inputs[::-1]):
        while factor is not whole and factor.call is not None and factor.shape == whole.shape:
            step = factor.call
            if step.name in LAYERS | NORMS | POOLS or len(step.inputs) != 1 or step.learned:
                break
            factor = step.inputs[0]
        if factor is whole:
            return True
    return False


def _why_no_module(value: Value, trace: Trace) -> str:
    """Why none of the modules that give a value can have a gate."""
    if value.parts_of:
        return f"{value.parts_of[0]!r} gives it together with other values"
    name = value.modules[0]
    if (times := trace.calls_of[name]) > 1:
        return (
            f"{name!r} gives it and runs {times} times in a pass; where=[{name!r}] gates each of "
            "its runs"
        )
    if name not in trace.gives_tensor:
        return f"{name!r} gives it together with other values"
    return f"it is unclear which dimension of the output of {name!r} holds the channels"


def _keeps_zero(call: Call) -> bool:
    """Whether a call gives 0 where its input is 0."""
    if call.fills:
        return False
    if call.name.endswith(("div", "div_", "truediv__")) and call.follows[:1] == (False,):
        return False  # a constant divided by the map
    if call.name not in ("clamp", "clamp_", "clip", "clip_"):
        return call.name in KEEPS_ZERO
    limits = [*call.arguments[1:], None, None]
    low = call.keywords.get("min", limits[0])
    high = call.keywords.get("max", limits[1])
    return (low is None or low <= 0) and (high is None or high >= 0)
