"""What a network is run on: one tensor, or several by position or by name; and trees of tensors."""

# N batch

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

# a tensor; a tuple or list of arguments by position; a dict of arguments by name
Example = torch.Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]


def as_inputs(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one pass: (args, kwargs) for `model(*args, **kwargs)`.

    A tensor is the only argument. A tuple or list holds the positional arguments, a dict the named
    ones. For a network that takes one dict or one tuple give `(that,)`.

    Raises:
        ValueError: for anything else, or where there is no tensor with values in it.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, torch.Tensor):
        args = (example,)
    elif isinstance(example, (tuple, list)):
        args = tuple(example)
    elif isinstance(example, dict) and all(isinstance(name, str) for name in example):
        kwargs = dict(example)
    else:
        raise ValueError(
            f"example={type(example).__name__} is no input: give a tensor [N, C, ...], a tuple of "
            "positional arguments, or a dict of named ones"
        )
    found: list[torch.Tensor] = []
    map_tensors(found.append, (args, kwargs))
    if not any(tensor.numel() for tensor in found):
        raise ValueError(
            f"example has no tensor with values but {described(example)}; give a tensor "
            "[N, C, ...], a tuple of positional arguments, or a dict of named ones"
        )
    return args, kwargs


def map_tensors(change: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """A copy of `tree` in which each tensor in its tuples, lists and dicts is `change(tensor)`."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(change, item) for item in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_tensors(change, item) for item in tree)
    if isinstance(tree, dict):
        return type(tree)((key, map_tensors(change, item)) for key, item in tree.items())
    return tree


def tensors_of(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists, dicts and dataclasses (Hugging Face's), in order."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from tensors_of(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors_of(item)
    elif hasattr(tree, "__dataclass_fields__"):
        yield from tensors_of(vars(tree))


def moved(example: Any, like: torch.Tensor) -> Any:
    """A copy of an example on the device of `like`; floats and uint8 take the dtype of `like`."""

    def move(x: torch.Tensor) -> torch.Tensor:
        number = x.is_floating_point() or x.dtype is torch.uint8
        dtype = like.dtype if number and like.is_floating_point() else x.dtype
        return x.to(device=like.device, dtype=dtype, copy=True)

    return map_tensors(move, example)


def described(example: Any) -> str:
    """The shapes of an example, as errors show them."""
    if isinstance(example, torch.Tensor):
        return str(list(example.shape))
    if isinstance(example, (tuple, list)):
        return f"({', '.join(map(described, example))})"
    if isinstance(example, dict):
        return "{" + ", ".join(f"{name}: {described(x)}" for name, x in example.items()) + "}"
    return repr(example) if isinstance(example, (int, float, str)) else type(example).__name__
