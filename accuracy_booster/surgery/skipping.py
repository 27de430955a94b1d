"""Leave sites out that the argument `skip=` names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from accuracy_booster.errors import shown, unknown
from accuracy_booster.surgery.finding import Found
from accuracy_booster.surgery.where_text import read_skip

Skip = str | Iterable[str] | None


def leave_out(model: nn.Module, found: Sequence[Found], skip: Skip) -> list[Found]:
    """`found`, with the sites that `skip` names or that lie in a module that it names left out.

    Raises:
        ValueError: for a name or pattern that fits no module, and if no site is left.
    """
    names = read_skip(skip)
    if not names:
        return list(found)
    modules = [name for name, _ in model.named_modules() if name]
    for name in names:
        if not any(fnmatchcase(module, name) for module in modules):
            raise unknown("module", name, modules, "skip= names modules whose sites get no gate")
    kept = [_left_out(one, names) for one in found]
    if any(one.site for one in found) and not any(one.site for one in kept):
        raise ValueError(
            f"skip={shown(','.join(names))} leaves out every site of {type(model).__name__}; skip "
            "fewer, or boost with block='none'"
        )
    return kept


def _left_out(found: Found, names: Sequence[str]) -> Found:
    if found.site is None:
        return found
    parts = found.site.name.split(".")
    within = [".".join(parts[: i + 1]) for i in range(len(parts))]
    for name in names:
        if any(fnmatchcase(module, name) for module in within):
            return Found(None, f"{found.site.name}, by skip={name!r}")
    return found
