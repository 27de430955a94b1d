"""Call a function on a module when its constructor has ended.

Python tells nobody that a constructor ends. But nobody outside can use the new object without
reading an attribute of it. So the object gets, for the time of its construction, a subclass that
looks at each reading of an attribute whether a constructor is still running. The first reading
after that calls the function, before it gives an answer.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, cast

from torch import nn

WAITS = "_waits_for"  # on the class of a module under construction: its class before


def state_of_module(module: nn.Module) -> dict[str, Any]:
    """`module.__dict__`, which does not count as the end of its construction."""
    state: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return state


def under_construction() -> Iterator[nn.Module]:
    """The modules whose `__init__` runs in this thread, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount:
            new: Any = frame.f_locals.get(code.co_varnames[0])
            if issubclass(type(new), nn.Module):
                yield new
        frame = frame.f_back


def after_construction(
    module: nn.Module, is_over: Callable[[nn.Module], bool], finish: Callable[[nn.Module], None]
) -> None:
    """Have `finish(module)` called at the first reading of an attribute when `is_over(module)`.

    If `finish` raises, every later reading calls it again: the module cannot be used without it.
    Both functions must be the same objects at each call, since the subclasses are kept.
    """
    if not is_waiting(module):
        _change_class(module, _waiting_class(cast(Any, type(module)), is_over, finish))


def is_waiting(module: nn.Module) -> bool:
    """Whether `after_construction` was called for a module, and its function has not run yet."""
    return WAITS in vars(type(module))


def _change_class(module: nn.Module, cls: type) -> None:
    object.__setattr__(module, "__class__", cls)


@functools.cache
def _waiting_class(
    base: type[nn.Module],
    is_over: Callable[[nn.Module], bool],
    finish: Callable[[nn.Module], None],
) -> type[nn.Module]:
    def __getattribute__(self: nn.Module, name: str) -> Any:
        if type(self) is cls and is_over(self):
            _change_class(self, base)
            try:
                finish(self)
            except BaseException:
                _change_class(self, cls)
                raise
        return base.__getattribute__(self, name)

    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, WAITS: base}
    metaclass: Any = type(base)
    cls = metaclass(base.__name__, (base,), {**names, "__getattribute__": __getattribute__})
    return cast(type[nn.Module], cls)
