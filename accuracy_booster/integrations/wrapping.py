"""Have methods of another package call ours, which get the method first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def wrap_method(cls: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a method of a class, or a class method, by `wrapper(method, self or cls, ...)`."""
    found = cls.__dict__[name]
    method = found.__func__ if isinstance(found, classmethod) else found

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(method, self, *args, **kwargs)

    setattr(cls, name, classmethod(wrapped) if isinstance(found, classmethod) else wrapped)
