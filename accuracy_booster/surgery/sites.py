"""A site: where a gate goes, with the shape of the feature map there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """The output of the module `name`, a feature map of any rank.

    Attributes:
        name: of the module, as in `model.named_modules()`.
        channels: C.
        spatial_size: the sides of the map: (H, W), (L,), (D, H, W), or () for [N, C].
        layout: "NCHW": channels come first, [N, C, *spatial_size], for maps of every rank.
            "NHWC": channels come last, [N, *spatial_size, C].
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
