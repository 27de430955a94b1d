"""Which dimension of a map holds its channels, and which module gives the map."""

# N batch, C channels, H W space

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from accuracy_booster.surgery.torch_functions import CONVOLUTIONS, MAP_RANKS, NORMS
from accuracy_booster.surgery.trace import Call, Trace, Value

MOVES = {"permute", "transpose", "swapaxes", "swapdims"}


def is_map(value: Value) -> bool:
    """Whether a value has as many dimensions as a feature map."""
    return len(value.shape) in MAP_RANKS


def numel(value: Value) -> int:
    """The number of a value's elements."""
    return math.prod(value.shape)


def module_of(value: Value, trace: Trace) -> str | None:
    """The innermost module that ran once in the pass and gave the value, alone."""
    once = (n for n in value.modules if trace.calls_of[n] == 1 and n in trace.gives_tensor)
    return next(once, None)


def sides_of(value: Value) -> tuple[int, ...]:
    """The sides of a map: (H, W) of [N, C, H, W]."""
    return value.shape[1:-1] if layout_of(value) == "NHWC" else value.shape[2:]


def layout_of(value: Value) -> str | None:
    """Where the channels of a map are: "NCHW" (first), "NHWC" (last), or None if unclear.

    It is read off the layer or norm that made the map, and the permutations since.
    """
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
    """Whether a convolution runs on one map [C, H, W] without a batch dimension."""
    return call.name in CONVOLUTIONS and len(call.inputs[0].shape) != int(call.name[-2]) + 2


def _channel_dim(call: Call, rank: int) -> int | None:
    """The dimension of the channels in the output of a layer or norm; None for other calls."""
    if call.name in ("layer_norm", "rms_norm"):
        sizes = call.arguments[1:2]
        over = len(sizes[0]) if sizes and isinstance(sizes[0], (list, tuple)) else 1
        return rank - 1 if over == 1 else None
    if call.name == "linear":
        return rank - 1
    if call.name in CONVOLUTIONS | NORMS or (call.name == "cat" and rank > 3):
        return 1
    return None


def _move(call: Call, rank: int) -> list[int] | None:
    """The order into which a call puts the dimensions; None if its arguments do not say it."""
    dims = [a % rank for a in flat(call.arguments) if isinstance(a, int)]
    if call.name == "permute":
        return dims if len(dims) == rank else None
    if len(dims) != 2:
        return None
    order = list(range(rank))
    order[dims[0]], order[dims[1]] = dims[1], dims[0]
    return order


def flat(items: Iterable[Any]) -> Iterator[Any]:
    """The items of nested lists and tuples."""
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from flat(item)
        else:
            yield item
