"""`where` and `skip` as text, as configurations and the command line hold them.

    where   residual, conv or attention; or names of modules and regular expressions between
            slashes, separated by commas: layer1.0.bn2,/layer[34].*bn2/
    skip    names of modules and shell patterns, separated by commas: layer1,*.downsample.*

It imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from accuracy_booster.errors import shown

RULE = (
    "residual, conv, attention, or names of modules and regular expressions between slashes, "
    "separated by commas"
)
_ITEM = re.compile(r"\s*(?:/(?P<pattern>.+?)/|(?P<name>[^,/\s][^,]*?))\s*(?:,|$)")


def read_where(text: str) -> str | re.Pattern[str] | list[str | re.Pattern[str]]:
    """What a text of `where` means: a kind or name, a pattern, or a list of names and patterns.

    Raises:
        ValueError: for a text of another form, or what is no regular expression.
    """
    items, at = list[str | re.Pattern[str]](), 0
    while at < len(text):
        found = _ITEM.match(text, at)
        if found is None:
            raise ValueError(f"where={shown(text)} must be {RULE}")
        pattern = found["pattern"]
        items.append(found["name"] if pattern is None else _compiled(pattern, text))
        at = found.end()
    if not items:
        raise ValueError(f"where={shown(text)} must be {RULE}")
    return items[0] if len(items) == 1 else items


def _compiled(pattern: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as e:
        raise ValueError(f"where={shown(text)} is no regular expression: {e}") from None


def write_where(where: object) -> str:
    """The text that `read_where` reads back, of a kind, names, or compiled patterns.

    Raises:
        ValueError: for what no text can say: a predicate, or a pattern with flags.
    """
    if isinstance(where, (str, re.Pattern)):
        return "".join(_written([where]))
    if callable(where) or not isinstance(where, Iterable):
        raise ValueError(
            f"where={shown(where)} cannot be written into a configuration, which holds text; give "
            f"{RULE}"
        )
    return ",".join(_written(where))


def _written(items: Iterable[object]) -> Iterator[str]:
    for item in items:
        if isinstance(item, re.Pattern):
            if item.flags & ~re.UNICODE:
                raise ValueError(
                    f"where={shown(item)} has flags, which a text does not hold; write them into "
                    "the pattern, such as (?i)"
                )
            yield f"/{item.pattern}/"
        elif isinstance(item, str):
            yield item
        else:
            raise ValueError(f"where names a module by {shown(item)}, which is no name")


def read_skip(skip: object) -> tuple[str, ...]:
    """The names and shell patterns of `skip`, which may be a text or several; none for None.

    Raises:
        ValueError: if it is neither.
    """
    if skip is None:
        return ()
    items = [skip] if isinstance(skip, str) else list(skip) if isinstance(skip, Iterable) else [0]
    if not all(isinstance(item, str) for item in items):
        raise ValueError(
            f"skip={shown(skip)} must be names of modules or shell patterns, such as 'layer1' or "
            "'*.downsample.*'"
        )
    parts = (part.strip() for item in items for part in str(item).split(","))
    return tuple(dict.fromkeys(filter(None, parts)))
