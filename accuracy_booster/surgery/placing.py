"""Where on a branch its gate stands, and how the channels of a map lie.

The gate stands after the branch's last layer, and before its trailing activations, poolings and
layer scale, whether those are functions or modules. They must keep zero, so that a shut gate shuts
the branch: ReLU, SiLU and tanh do, sigmoid does not. Before them the gate can be computed with the
norm, the sum and the ReLU in one pass (`ab.fuse`), and folded into the convolution (`ab.fold`).
Where the map before the activation is read elsewhere or given by no module, the gate stands after.
"""

# N batch, C channels, H W space

from __future__ import annotations

import math
from collections.abc import Iterable

from accuracy_booster.surgery.rules import (
    ACTIVATIONS,
    CONVOLUTIONS,
    KEEPS_ZERO,
    LAYERS,
    MAP_RANKS,
    NORMS,
    POOLS,
    PRODUCTS,
    RESHAPES,
    SLICES,
    UPSAMPLING,
)
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.trace import Call, Trace, Value


def is_map(value: Value) -> bool:
    return len(value.shape) in MAP_RANKS


def ends_in_upsampling(branch: Value, forks: list[Value]) -> bool:
    """Whether the branch brings a coarser map to the size that the fork has already.

    Then the sum joins two resolutions, by whatever means the map was upsampled and whether or not
    layers that see one position at a time follow. Where the fork is the coarser map, the shortcut
    was upsampled too, and the sum is that of a residual block that upsamples.
    """
    size = _sides(branch)
    same_rank = [fork for fork in forks if len(fork.shape) == len(branch.shape)]
    if any(_is_coarser(_sides(fork), size) for fork in same_rank):
        return False
    value = branch
    while value not in forks and (call := value.call) is not None:
        if call.name in UPSAMPLING:
            return True
        before = [i for i in call.inputs if any(fork.flows_into(i) for fork in forks)]
        layer = call.name in LAYERS
        if layer and len(value.shape) == len(branch.shape) and _is_coarser(_sides(value), size):
            return True  # a function that is no layer made it larger, as a shuffle by hand
        transposed = call.name.startswith("conv_transpose")
        if transposed and before and _is_coarser(_sides(before[0]), _sides(value)):
            return True
        if (layer and not _is_pointwise(call)) or len(before) != 1:
            return False
        value = before[0]
    return False


def _sides(value: Value) -> tuple[int, ...]:
    return value.shape[1:-1] if layout_of(value) == "NHWC" else value.shape[2:]


def _is_coarser(sides: tuple[int, ...], than: tuple[int, ...]) -> bool:
    """Whether a map is that much smaller that padding does not explain it."""
    pairs = list(zip(sides, than, strict=True))
    return any(3 * a <= 2 * b for a, b in pairs) and all(a <= b for a, b in pairs)


def _is_pointwise(call: Call) -> bool:
    """Whether a layer sees one position at a time: a linear layer, a convolution of size 1."""
    if call.name not in CONVOLUTIONS:
        return call.name in ("linear", "addmm")
    padding = call.arguments[4:5] or (0,)  # a larger kernel without padding shrinks the map
    return not any(_flat(padding)) and call.inputs[0].shape[2:] == call.outputs[0].shape[2:]


def place(end: Value, call: Call, trace: Trace) -> Site | str:
    """The module whose output the gate scales, or why there is none.

    It is the branch's last layer. The steps after it are left to act on the gated map: layer scale,
    activations and poolings, whether functions or modules. A gate before them is as good (where
    the map is 0 they give 0) and can be fused and folded. Where no module ends there it is the
    module nearest to the sum.
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
    """A call in words: writes through views are no functions of torch."""
    return "a write into a part of it" if call.name == "written" else f"torch.{call.name}"


def _may_follow(call: Call | None) -> bool:
    """Whether a step comes after the gate: an activation or a pooling that keeps zero."""
    if call is None:
        return False
    if call.name in ACTIVATIONS | POOLS:
        return True
    if call.name not in PRODUCTS or len(call.inputs) != 2:
        return False
    # x * sigmoid(x), written out: an activation, where no layer and no pooling is in between
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


def module_of(value: Value, trace: Trace) -> str | None:
    """The innermost module that ran once and gave the value, alone."""
    once = (n for n in value.modules if trace.calls_of[n] == 1 and n in trace.gives_tensor)
    return next(once, None)


def layout_of(value: Value) -> str | None:
    """Where the channels of a map are, from the layer or norm that made it; None if unclear."""
    rank, moves = len(value.shape), []
    if rank == 2:
        return "NCHW"
    while rank in MAP_RANKS and len(value.shape) == rank and value.call is not None:
        call = value.call
        if _is_unbatched(call):
            return None
        if (dim := _channel_dim(call, rank)) is None:
            if call.name in MOVES:
                if (move := _move(call, rank)) is None:
                    return None
                moves.append(move)
            elif call.name in ("movedim", "moveaxis", "ravel", "view", "reshape", "__get__"):
                return None
            bigger = [i for i in call.inputs if sorted(i.shape) == sorted(value.shape)]
            value = (bigger or call.inputs)[0]
            continue
        for move in reversed(moves):
            dim = move.index(dim)
        return {1: "NCHW", rank - 1: "NHWC"}.get(dim)
    return "NCHW" if len(value.shape) == rank in MAP_RANKS else None


def _is_unbatched(call: Call) -> bool:
    """Whether a convolution runs on one map without a batch: its channels come first of all."""
    return call.name in CONVOLUTIONS and len(call.inputs[0].shape) != int(call.name[-2]) + 2


def _channel_dim(call: Call, rank: int) -> int | None:
    """The dimension of the channels in what a layer or norm gives; None for other calls."""
    if call.name in ("layer_norm", "rms_norm"):
        sizes = call.arguments[1:2]
        over = len(sizes[0]) if sizes and isinstance(sizes[0], (list, tuple)) else 1
        return rank - 1 if over == 1 else None
    if call.name == "linear":
        return rank - 1
    if call.name in CONVOLUTIONS | NORMS or (call.name == "cat" and rank > 3):
        return 1
    return None


MOVES = {"permute", "transpose", "swapaxes", "swapdims"}


def _move(call: Call, rank: int) -> list[int] | None:
    """The order in which a call puts the dimensions; None where its arguments do not say it."""
    dims = [a % rank for a in _flat(call.arguments) if isinstance(a, int)]
    if call.name == "permute":
        return dims if len(dims) == rank else None
    if len(dims) != 2:
        return None
    order = list(range(rank))
    order[dims[0]], order[dims[1]] = dims[1], dims[0]
    return order


def numel(value: Value) -> int:
    return math.prod(value.shape)


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


def _flat(items: Iterable) -> Iterable:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item
