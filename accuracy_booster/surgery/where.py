"""Find the sites that the argument `where=` asks for; say why a named module is no site."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import nn

from accuracy_booster.errors import unknown
from accuracy_booster.surgery.finding import Found, residual_sites
from accuracy_booster.surgery.layouts import layout_of
from accuracy_booster.surgery.other_sites import attention_sites, conv_sites
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.torch_functions import MAP_RANKS
from accuracy_booster.surgery.trace import Trace, Value
from accuracy_booster.surgery.where_text import read_where

Where = str | Iterable[str | re.Pattern[str]] | re.Pattern[str] | Callable[[str, nn.Module], bool]
KINDS = {"residual": residual_sites, "conv": conv_sites, "attention": attention_sites}


def where_text(where: Where) -> str:
    """What `where` looks for, as a noun for messages."""
    if isinstance(where, str):
        texts = {"residual": "residual branch", "conv": "convolution", "attention": "attention"}
        return texts.get(where, where)
    if isinstance(where, re.Pattern):
        return f"module that matches {where.pattern!r}"
    return "module that the predicate accepts" if callable(where) else "module of those names"


def find_sites(model: nn.Module, trace: Trace, where: Where) -> list[Found]:
    """The sites of a kind, or the modules that `where` chooses.

    Raises:
        ValueError: for a name that no module has, a pattern in a list that fits no module, and a
            module whose output is no feature map.
    """
    if isinstance(where, str):
        where = read_where(where)
    if isinstance(where, str) and where in KINDS:
        return KINDS[where](trace)
    names, reason = _chosen(model, where)
    values: dict[str, list[Value]] = {}
    for value in trace.values:
        for name in (*value.modules, *value.through, *value.parts_of):
            values.setdefault(name, []).append(value)
    return [Found(_site(name, values.get(name, []), trace), reason) for name in names]


def _chosen(model: nn.Module, where: Where) -> tuple[list[str], str]:
    """The names of the modules that `where` chooses, and the reason to give in a plan."""
    modules = dict(model.named_modules())
    if isinstance(where, re.Pattern):
        return [n for n in modules if where.search(n)], f"matches {where.pattern!r}"
    if callable(where):
        return [n for n, module in modules.items() if where(n, module)], "chosen by the predicate"
    if isinstance(where, str):
        where = [where]
    if not isinstance(where, Iterable):
        raise ValueError(
            f"where={where!r} must be 'residual', 'conv', 'attention', names of modules, "
            "compiled regular expressions or a predicate"
        )
    names: list[str] = []
    for item in where:
        if isinstance(item, re.Pattern):
            matching = [name for name in modules if item.search(name)]
            if not matching:
                raise ValueError(f"where={item.pattern!r} matches no module")
            names += matching
        elif not isinstance(item, str) or not item:
            raise ValueError(f"where names a module by {item!r}, which is no name")
        elif item not in modules:
            raise unknown("module", item, [*filter(None, modules), *KINDS])
        else:
            names.append(item)
    return list(dict.fromkeys(names)), "named"


def _site(name: str, values: list[Value], trace: Trace) -> Site:
    """The site of one module, from all values that it gave in the pass.

    Raises:
        ValueError: if it gave no feature map, or maps with different numbers of channels.
    """
    rule = "a gate needs a feature map [N, C, ...]"
    if not values:
        got = (
            "gives no tensor that depends on the input" if name in trace.calls_of else "is not run"
        )
        raise ValueError(f"module {name!r} {got} in a pass; {rule}")
    value = values[-1]
    if name not in trace.gives_tensor:
        raise ValueError(
            f"module {name!r} gives several values or a container of them, not one tensor; {rule}: "
            "name a module inside that gives the map alone"
        )
    if len(value.shape) not in MAP_RANKS:
        raise ValueError(f"module {name!r} gives {list(value.shape)}; {rule}")
    layout = layout_of(value)
    if layout is None:
        raise ValueError(f"module {name!r}: it is unclear which dimension holds its channels")
    sites = [Site.of(name, v.shape, layout) for v in values]
    kinds = {(site.channels, len(site.spatial_size)) for site in sites}
    if len(kinds) > 1:
        shapes = " and ".join(str(list(v.shape)) for v in values)
        raise ValueError(
            f"module {name!r} runs several times and gives {shapes}; one gate fits one number of "
            "channels: name modules that run with one"
        )
    return sites[-1]
