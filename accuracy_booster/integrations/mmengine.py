"""Boosted networks in mmengine: `efficient_conv_bn_eval` leaves gated layers as they are.

That option computes a convolution and the norm after it from their tensors in eval mode, and calls
neither, so gates would be left out. With a gate on one of the two, both are called as usual.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from accuracy_booster.surgery.gated import is_gated
from accuracy_booster.surgery.gating import follow_rebuilt_modules

# The first chooses by the mode and calls the second, which computes from the tensors.
FUNCTIONS = ("efficient_conv_bn_eval_control", "efficient_conv_bn_eval_forward")
_wrapped: list[str] = []


def register() -> None:
    """Have mmengine call convolutions and norms that have gates, in this process.

    The first gate of a process does so too.
    """
    from mmengine.model import efficient_conv_bn_eval

    if not _wrapped:
        for name in FUNCTIONS:
            _wrapped.append(name)
            setattr(efficient_conv_bn_eval, name, _calls(getattr(efficient_conv_bn_eval, name)))
        follow_rebuilt_modules()


def _calls(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(bn: Any, conv: Any, x: Any) -> Any:
        return bn(conv(x)) if is_gated(bn) or is_gated(conv) else function(bn, conv, x)

    return wrapped
