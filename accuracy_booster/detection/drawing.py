"""`draw`: draws what a detector found into its image, as boxes with class names and scores."""

# N detections, H W space

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from accuracy_booster.data.pixels import to_rgb
from accuracy_booster.progress import printable

if TYPE_CHECKING:
    from accuracy_booster.detection.predicting import Prediction

# Neighbours differ in brightness or hue, also for people with a colour vision deficiency. White
# text has a contrast of at least 5 to 1 on each colour.
COLOURS = (
    *("#0072B2", "#B34700", "#117733", "#882255", "#444444", "#A8417F"),
    *("#7A4B00", "#332288", "#00687A", "#B0121B"),
)
LEAST = 320  # the shortest longer side of a picture, in pixels
Box = tuple[int, int, int, int]  # x1, y1, x2, y2, of pixels inside the box


def colour(label: int) -> str:
    """The colour of a class, by its label from 1."""
    return COLOURS[(label - 1) % len(COLOURS)]


def draw(
    image: Image.Image | torch.Tensor,
    prediction: Prediction,
    *,
    truth: Mapping[str, torch.Tensor] | None = None,
) -> Image.Image:
    """A copy of the image with boxes, class names and scores. Each class has one colour.

    Lines and letters grow with the image. An image whose longer side has fewer than 320 pixels is
    enlarged by a whole number, so that names can be read. A name that is longer than the image is
    cut off. A name with letters that the font lacks is replaced by its label, such as #17.

    Args:
        image: what was given to `predict`: a PIL image, or uint8 [3, H, W].
        truth: boxes [M, 4] and labels [M] as in torchvision's targets. They are drawn as thin
            dashed outlines.

    Raises:
        ValueError: if the prediction is of an image of another size.
    """
    if isinstance(image, torch.Tensor):
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    else:
        picture = to_rgb(image).copy()
    if (picture.height, picture.width) != prediction.size:
        height, width = prediction.size
        raise ValueError(
            f"the image is {picture.height} x {picture.width}, the prediction of one of {height} x "
            f"{width}; give the image that the prediction was made from"
        )
    times = -(-LEAST // max(picture.size))
    if times > 1:
        picture = picture.resize((times * picture.width, times * picture.height))
    pen = ImageDraw.Draw(picture)
    line = max(1, round(min(picture.size) / 250))
    if truth is not None:
        known = (times * truth["boxes"]).tolist(), truth["labels"].tolist()
        for box, label in zip(*known, strict=True):
            _dashed(pen, _within(box, picture.size), colour(label), max(1, line // 2))
    boxes = [_within(box, picture.size) for box in (times * prediction.boxes).tolist()]
    labels = prediction.labels.tolist()
    for box, label in reversed(
        list(zip(boxes, labels, strict=True))
    ):  # the highest score is drawn last, on top
        _outline(pen, box, colour(label), line)
    font = _font(max(9, round(min(picture.size) / 40)))
    scores = prediction.scores.tolist()
    texts = [
        _fitted(font, name, label, score, picture.width)
        for name, label, score in zip(prediction.names, labels, scores, strict=True)
    ]
    for place, text, label in reversed(
        list(zip(_places(boxes, texts, font, line, picture.size), texts, labels, strict=True))
    ):
        if not text:
            continue
        pen.rectangle(place, fill=colour(label), outline="white")
        x = (place[0] + place[2]) / 2
        pen.text((x, (place[1] + place[3]) / 2), text, fill="white", font=font, anchor="mm")
    return picture


# --- boxes


def _within(box: Sequence[float], size: tuple[int, int]) -> Box:
    """The box in whole pixels, within an image of (width, height)."""
    x = [min(max(round(v), 0), size[0] - 1) for v in box[::2]]
    y = [min(max(round(v), 0), size[1] - 1) for v in box[1::2]]
    return min(x), min(y), max(x), max(y)


def _outline(pen: ImageDraw.ImageDraw, box: Box, colour: str, line: int) -> None:
    """A line with thin white edges, which can be seen on any background."""
    edge = max(1, line // 3)
    for inset, width, fill in ((-edge, line + 2 * edge, "white"), (0, line, colour)):
        x1, y1, x2, y2 = box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset
        pen.rectangle((x1, y1, x2, y2), outline=fill, width=width)


def _dashed(pen: ImageDraw.ImageDraw, box: Box, colour: str, line: int) -> None:
    """A dashed line, white between its dashes."""
    x1, y1, x2, y2 = box
    pen.rectangle(box, outline="white", width=line)
    dash = 4 * line
    for x in range(x1, x2 + 1, 2 * dash):
        end = min(x + dash - 1, x2)
        pen.rectangle((x, y1, end, min(y1 + line - 1, y2)), fill=colour)
        pen.rectangle((x, max(y2 - line + 1, y1), end, y2), fill=colour)
    for y in range(y1, y2 + 1, 2 * dash):
        end = min(y + dash - 1, y2)
        pen.rectangle((x1, y, min(x1 + line - 1, x2), end), fill=colour)
        pen.rectangle((max(x2 - line + 1, x1), y, x2, end), fill=colour)


# --- texts


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib. Pillow's own font has only ASCII letters."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


@cache
def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether a font has a letter. A missing letter is drawn like U+FFFF, which no font has."""
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


def _fitted(font: ImageFont.FreeTypeFont, name: str, label: int, score: float, width: int) -> str:
    """The text "name 0.87", shortened if it is wider than the image; "" if nothing fits."""
    name = printable(name)
    if not name.strip() or not all(_has(font, letter) for letter in set(name[:200])):
        name = f"#{label}"
    most = width - _padding(font) * 2 - 1
    whole = f"{name} {score:.2f}"
    if font.getlength(whole) <= most:
        return whole
    kept = name[:200]
    for end in (f"\u2026 {score:.2f}", "\u2026", ""):
        for count in range(len(kept), min(2, len(kept) - 1), -1):
            if font.getlength(kept[:count] + end) <= most:
                return kept[:count] + end
    return ""


def _padding(font: ImageFont.FreeTypeFont) -> int:
    return max(2, round(font.size / 5))


def _places(
    boxes: Sequence[Box],
    texts: Sequence[str],
    font: ImageFont.FreeTypeFont,
    line: int,
    size: tuple[int, int],
) -> list[Box]:
    """The place of each text, within an image of (width, height).

    It is the first of `_candidates` that hides no earlier text, else the one that hides the fewest
    pixels of them.
    """
    ascent, descent = font.getmetrics()
    height = min(ascent + descent + 2, size[1])
    placed: list[Box] = []
    for box, text in zip(boxes, texts, strict=True):
        width = min(round(font.getlength(text)) + 2 * _padding(font) + 1, size[0])
        best, least = None, np.inf
        for x, y in _candidates(box, width, height, line):
            x, y = min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)
            place = (x, y, x + width - 1, y + height - 1)
            hidden = _hidden(place, placed)
            if hidden < least:
                best, least = place, hidden
            if not hidden:
                break
        assert best is not None
        placed.append(best)
    return placed


def _candidates(box: Box, width: int, height: int, line: int) -> Iterator[tuple[int, int]]:
    """Upper left corners of places for a text: first those above the box, the farthest last."""
    x1, y1, x2, y2 = box
    right = x2 - width + 1
    above, below = y1 - height, y2 + 1
    yield from ((x1, above), (x1, y1), (right, above), (right, y1), (x1, below), (right, below))
    yield from ((x1, y2 - height + 1), (right, y2 - height + 1))
    for y in range(y1 + height, y2 - height, height):
        yield from ((x1, y), (right, y))
    middle = (x1 + x2 - width) // 2
    yield from ((middle, above), (middle, y1), (middle, below), (x2 + 1, y1), (x1 - width, y1))
    for half in range(1, 9):
        more = half * height // 2
        yield from ((x1, above - more), (x1, below + more), (right, above - more))


def _hidden(place: Box, placed: Sequence[Box]) -> int:
    """How many pixels of the texts placed so far a place hides."""
    if not placed:
        return 0
    x1, y1, x2, y2 = np.array(placed).T
    across = np.minimum(x2, place[2]) - np.maximum(x1, place[0]) + 1
    down = np.minimum(y2, place[3]) - np.maximum(y1, place[1]) + 1
    return int((across.clip(0) * down.clip(0)).sum())
