"""Functions and layers that `torch.fx` records as a single node, as it records torch's own layers.

While `torch.fx` traces a network symbolically, a `Proxy` takes the place of each tensor. A proxy
has neither shape nor dtype, so code that asks for them cannot be traced. A leaf is not traced: the
graph calls it, and it runs as it is, with its checks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Proxy


def is_proxy(x: Any) -> bool:
    """Whether `torch.fx` is tracing, so that x takes the place of a tensor."""
    return isinstance(x, Proxy)


def leaf(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function that `torch.fx` is to record as one call.

    It does so if the function's first argument is a proxy.
    """

    @functools.wraps(function)
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if is_proxy(x):
            return x.tracer.create_proxy("call_function", call, (x, *args), kwargs)
        return function(x, *args, **kwargs)

    return call


def leaf_module(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate the `forward` of a module that `torch.fx` is to record as one call.

    The recorded call gets `options` as keyword arguments. A module that is itself the root of the
    trace has no name to call it by, so its `forward` is traced.
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
