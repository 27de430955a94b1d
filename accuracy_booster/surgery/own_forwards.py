"""A `forward` that another tool sets on one gated module, and the gate after it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from accuracy_booster.surgery.gated import gate_of, is_gated

# In the `__dict__` of a module while such a forward runs: whether the class's forward has run too.
APPLIED = "_gate_applied"


class OwnForward:
    """A forward that a tool set on one gated module in place of the class's, and the gate after.

    ultralytics' `fuse` sets one that leaves the norm out. accelerate's hooks set one that calls the
    class's forward, which applies the gate. So the gate is applied here only if the class's forward
    has not run.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any]):
        self.module, self.forward = module, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state = self.module.__dict__
        state[APPLIED] = False
        try:
            output = self.forward(*args, **kwargs)
            done = state[APPLIED]
        finally:
            state.pop(APPLIED, None)
        gate = None if done else gate_of(self.module)
        return output if gate is None else gate(output)


def set_forward(module: nn.Module, forward: Any) -> None:
    """`module.forward = forward` for a module whose class applies a gate."""
    if is_gated(module) and not isinstance(forward, OwnForward):
        forward = functools.update_wrapper(OwnForward(module, forward), forward)
    module.__dict__["forward"] = forward
