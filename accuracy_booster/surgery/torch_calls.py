"""What the name and the arguments of a call of torch say about its result; `trace` asks.

Whether it writes in place, leaves nothing of the old values, or puts constants into a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

# Functions whose result does not depend on the values of their argument.
CREATES = {f"{what}_like" for what in ("zeros", "ones", "full", "empty", "rand", "randn")}
CREATES |= {f"new_{what}" for what in ("zeros", "ones", "full", "empty", "tensor")}


def is_independent(name: str, args: Sequence[Any]) -> bool:
    """Whether the result does not depend on the arguments' values: `zeros_like(x)`, `x.mul(0)`."""
    if name in CREATES:
        return True
    factors = [a for a in args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    return name in ("mul", "__mul__", "__rmul__") and factors == [0]


def is_in_place(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call writes into one of its arguments."""
    if name.startswith("__i") and name.endswith("__") and name != "__index__":
        return True
    if name == "__setitem__" or kwargs.get("out") is not None:
        return True
    return (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace"))


def sources(
    name: str, args: Sequence[Any], tensors: list[torch.Tensor], known: Mapping[int, Any]
) -> list[torch.Tensor]:
    """Those of the `tensors` in a call whose values are in the result.

    Args:
        known: by `id`, the tensors that depend on the input of the network.
    """
    if name == "copy_":
        return tensors[1:]  # nothing of the first is left
    if name == "__setitem__" and _overwrites(args):
        return tensors[-1:]
    if name == "where" and any(id(t) in known for t in tensors if t.dtype != torch.bool):
        # The condition chooses and gives no values. In `x.where(m, y)` it is the second argument.
        return [t for t in tensors if t.dtype != torch.bool]
    return tensors


def _overwrites(args: Sequence[Any]) -> bool:
    """Whether `x[...] = y` leaves nothing of x: y is a tensor as large as x."""
    value = args[2]
    return isinstance(value, torch.Tensor) and value.numel() == args[0].numel()


def puts_constants(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], follows: Sequence[bool]
) -> bool:
    """Whether a call puts constants other than 0 into a map, which is then not 0 where it was.

    Args:
        follows: for each of `args`, whether it depends on the input of the network.
    """
    if name == "where":
        places: range = range(len(args))
    elif name == "__setitem__" or name.startswith("masked_fill"):
        places = range(2, len(args))
    else:
        return False
    constants = [args[i] for i in places if not follows[i]]
    constants += [kwargs[key] for key in ("value", "other", "input") if key in kwargs]
    return any(_is_nonzero(constant) for constant in constants)


def _is_nonzero(constant: Any) -> bool:
    """Whether a constant has values other than 0; a condition has no values."""
    if not isinstance(constant, torch.Tensor):
        return constant != 0
    if constant.dtype == torch.bool:
        return False
    return constant.is_meta or bool(constant.any())
