"""The most confident mistakes of a network, with small pictures of their images."""

from __future__ import annotations

from typing import Any

from accuracy_booster.data.images import Images, UnreadableImage
from accuracy_booster.errors import shortened
from accuracy_booster.progress import printable
from accuracy_booster.report.thumbnails import thumbnail
from accuracy_booster.training.answers import Answers

MOST = 12
SIDE = 160  # pixels
LONGEST = 80  # characters of an image's name


def mistakes(answers: Answers, images: Images, most: int = MOST) -> list[dict[str, Any]]:
    """{"true", "given", "percent", "image", "picture"} of each; images come from the data set.

    Args:
        images: the data set that was measured, whose items the answers' indices number.
    """
    found: list[dict[str, Any]] = []
    for position in answers.mistakes(most):
        index = int(answers.indices[position])
        try:
            picture = thumbnail(images[index][0], SIDE)
        except (UnreadableImage, OSError):  # it could be read a moment ago; the words remain
            picture = None
        found.append(
            {
                "true": printable(answers.classes[int(answers.labels[position])]),
                "given": printable(answers.classes[int(answers.given[position])]),
                "percent": f"{100 * float(answers.probabilities[position]):.1f}",
                "image": shortened(printable(_name(images, index)), LONGEST),
                "picture": picture,
            }
        )
    return found


def _name(images: Images, index: int) -> str:
    """The image's name below the split's folder, or what messages call it."""
    return images.names[index] if images.names is not None else images.where(index)
