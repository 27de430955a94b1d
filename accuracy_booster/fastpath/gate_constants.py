"""Constants that a caller gives for gates: what they may be, and how they are checked."""

# C channels

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch

from accuracy_booster.errors import shown


class HasMeans(Protocol):
    """Such as what `ab.gates` returns."""

    def means(self) -> Mapping[str, torch.Tensor]:
        """{site: the mean of each channel's weight, [C]}."""


Constants = Mapping[str, torch.Tensor] | HasMeans


def has_means(gates: Any) -> bool:
    """Whether the constants come from a method `means()`."""
    return callable(getattr(gates, "means", None))


def read_constants(gates: Any) -> tuple[Mapping[str, Any], list[str]]:
    """{site: its constants}, and the sites of all gates that `gates` knows.

    `ab.gates` also knows gates without a mean per channel.

    Raises:
        ValueError: for what is no `Constants`.
    """
    means = gates.means() if has_means(gates) else gates
    if not isinstance(means, Mapping):
        raise ValueError(
            f"gates={shown(gates)} must be a mapping of sites to constants [C], or have a method "
            "means() that gives one"
        )
    return means, site_names([*means, *(gates if isinstance(gates, Mapping) else ())])


def site_names(names: Iterable[Any]) -> list[str]:
    """Each site once. Names of `ab.gates` end in "#2" for the second gate of a site."""
    return list(dict.fromkeys(str(name).partition("#")[0] for name in names))


def checked_constants(site: str, given: Any, channels: int) -> torch.Tensor:
    """The constants of one site as float64 [C], on their device.

    Raises:
        ValueError: if they are no tensor, have another shape or are not finite.
    """
    try:
        p = torch.as_tensor(given).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as e:
        raise ValueError(f"the constants of {site!r} are no tensor: {shown(given)}") from e
    if p.shape != (channels,):
        raise ValueError(
            f"the constants of {site!r} have shape {list(p.shape)}, and its gate has {channels} "
            "channels; give one for each"
        )
    if wrong := (~p.isfinite()).nonzero().flatten().tolist():
        raise ValueError(
            f"the constants of {site!r} are not finite, such as {float(p[wrong[0]])} of channel "
            f"{wrong[0]}"
        )
    return p
