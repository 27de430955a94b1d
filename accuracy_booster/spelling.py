"""Former spellings of arguments, which are still accepted and warn."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

from accuracy_booster.errors import shown

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed(former: str, today: str, position: int | None = None) -> Callable[[Function], Function]:
    """For a function: its argument `today` is also accepted as `former`, with a warning.

    Args:
        position: of the argument, from 0, or None if it is given by name alone. Giving it twice is
            an error.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if former not in kwargs:
                return function(*args, **kwargs)
            value = kwargs.pop(former)
            name = function.__name__
            by_position = position is not None and len(args) > position
            if today in kwargs or by_position:
                other = kwargs[today] if today in kwargs else args[position or 0]
                raise ValueError(
                    f"{name} got {today}={shown(other)} and {former}={shown(value)}, which is its "
                    f"former name; give {today}= alone"
                )
            warnings.warn(
                f"{name}({former}=...) is now {name}({today}=...)", DeprecationWarning, stacklevel=2
            )
            return function(*args, **{**kwargs, today: value})

        return cast(Function, call)

    return decorate
