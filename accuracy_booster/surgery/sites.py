"""Where gates go: named modules of a network, with the shape of what comes out of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """The output [N, channels, *spatial_size] of the module `name`; in NHWC channels come last.

    `spatial_size` has one number for each spatial dimension: none for [N, C].
    """

    name: str
    channels: int
    spatial_size: tuple[int, ...]
    layout: str = "NCHW"

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], layout: str = "NCHW") -> Site:
        """The site of a map of this shape."""
        if layout == "NCHW":
            return cls(name, shape[1], tuple(shape[2:]))
        return cls(name, shape[-1], tuple(shape[1:-1]), layout)
