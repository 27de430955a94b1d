"""A `forward` that another tool sets on one gated module, and the gate after it."""

from __future__ import annotations

import copy
import functools
import weakref
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
    has not run. In a deep copy of the module, a closure still calls the module that was copied.
    """

    copied_from: tuple[weakref.ref[nn.Module], ...] = ()

    def __init__(self, module: nn.Module, forward: Callable[..., Any]):
        self.module, self.forward = module, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        states = [self.module.__dict__]
        if self.copied_from:
            states += [m.__dict__ for m in (ref() for ref in self.copied_from) if m is not None]
        around = [state.get(APPLIED) for state in states]  # not None: this one is called by another
        for state in states:
            state[APPLIED] = False
        done = None
        try:
            output = self.forward(*args, **kwargs)
            done = any(state[APPLIED] for state in states)
        finally:
            for state, before in zip(states, around, strict=True):
                if before is None:
                    state.pop(APPLIED, None)
                else:
                    state[APPLIED] = before or done is not None
        gate = None if done else gate_of(self.module)
        return output if gate is None else gate(output)

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnForward:
        new = OwnForward.__new__(OwnForward)
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        if new.module is not self.module:
            new.copied_from = (*self.copied_from, weakref.ref(self.module))
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "copied_from"}


def set_forward(module: nn.Module, forward: Any) -> None:
    """`module.forward = forward` for a module whose class applies a gate."""
    if is_gated(module) and not isinstance(forward, OwnForward):
        forward = functools.update_wrapper(OwnForward(module, forward), forward)
    module.__dict__["forward"] = forward
