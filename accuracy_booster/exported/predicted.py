"""`Prediction`: the most probable classes of an image, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, the first one first.

    Attributes:
        image: the path of the image, or its number among the given images.
        classes: their names; none if the image cannot be read.
        probabilities: of these classes, 0..1.
        unreadable: why the image cannot be read; "" if it was read.
    """

    image: str | int
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    unreadable: str = ""

    def __str__(self) -> str:
        pairs = zip(self.classes, self.probabilities, strict=True)
        return self.unreadable or ", ".join(f"{name} {100 * p:.1f} %" for name, p in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        top = [{"class": name, "probability": value} for name, value in pairs]
        return {"image": self.image, "top": top} | (
            {"unreadable": self.unreadable} if self.unreadable else {}
        )
