"""Packages whose names are imported when they are first used, so that a command starts at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def names(
    package: str, table: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable, Callable]:
    """`__getattr__` and `__dir__` for a package: {public name: the submodule that defines it}.

    `modules` are submodules that are attributes without being imported first.
    """

    def __getattr__(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{table[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *table, *modules})

    return __getattr__, __dir__
