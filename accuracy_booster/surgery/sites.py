"""Where gates go: named modules of a network, with the shape of what comes out of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """The output [N, channels, *spatial_size] of the module `name`; in NHWC channels come last."""

    name: str
    channels: int
    spatial_size: tuple[int, int]
    layout: str = "NCHW"

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], layout: str = "NCHW") -> Site:
        """The site of a map of this shape."""
        _, a, b, c = shape
        return cls(name, a, (b, c)) if layout == "NCHW" else cls(name, c, (a, b), layout)
