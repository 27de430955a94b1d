"""What `torch.fx` sees of our layers: each is one node, as torch's own layers are.

A graph of `torch.fx` knows neither the shape nor the type of a tensor, so a layer that asks for
them cannot be followed. Such a layer is recorded as one call, and runs as itself in the graph, with
its checks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Proxy


def is_proxy(x: Any) -> bool:
    """Whether `torch.fx` follows what runs, with x in the place of a tensor."""
    return isinstance(x, Proxy)


def leaf(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors that `torch.fx` records as one call; its first argument decides."""

    @functools.wraps(function)
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if is_proxy(x):
            return x.tracer.create_proxy("call_function", call, (x, *args), kwargs)
        return function(x, *args, **kwargs)

    return call


def leaf_module(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For `forward`: `torch.fx` records the module as one call with these options.

    A module that is traced alone, as the root, has no name to call it by and is followed.
    """

    def decorate(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def call(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
            if is_proxy(x) and (name := x.tracer.path_of_module(self)):
                given = {**options, **kwargs}
                return x.tracer.create_proxy("call_module", name, (x, *args), given)
            return forward(self, x, *args, **kwargs)

        return call

    return decorate
