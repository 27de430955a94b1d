"""Pictures with boxes and names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from accuracy_booster.detection import Prediction, draw, drawing


def prediction(
    boxes: list[list[float]], size: tuple[int, int], names: list[str] | None = None
) -> Prediction:
    labels = torch.arange(len(boxes)) + 1
    names = names or [f"class {k}" for k in labels.tolist()]
    scores = torch.linspace(0.9, 0.5, len(boxes))
    return Prediction("x", size, torch.tensor(boxes).reshape(-1, 4), scores, labels, names)


def grey(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_white_letters_are_seen_on_every_colour() -> None:
    for colour in drawing.COLOURS:
        parts = [v / 255 for v in rgb(colour)]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) > 5, colour
    assert len(set(drawing.COLOURS)) == len(drawing.COLOURS)


def test_boxes_stand_where_they_are() -> None:
    image = grey(400, 500)
    before = np.array(image)
    drawn = np.array(draw(image, prediction([[100, 150, 300, 350]], (400, 500))))
    assert np.array_equal(np.array(image), before)
    colour = rgb(drawing.colour(1))
    for x, y in ((100, 200), (300, 200), (200, 150), (200, 350)):
        assert tuple(drawn[y, x]) == colour, (x, y)
    assert tuple(drawn[250, 200]) == (128, 128, 128)
    changed = np.argwhere((drawn != before).any(2))
    assert changed.min(0).tolist() >= [100, 98]
    assert changed.max(0).tolist() <= [352, 302]


def test_truth_is_dashed() -> None:
    truth = {"boxes": torch.tensor([[50.0, 50, 350, 250]]), "labels": torch.tensor([2])}
    drawn = np.array(draw(grey(400, 500), prediction([], (400, 500)), truth=truth))
    row = [tuple(pixel) for pixel in drawn[50, 50:351]]
    assert set(row) == {rgb(drawing.colour(2)), (255, 255, 255)}
    assert 0.3 < row.count((255, 255, 255)) / len(row) < 0.7
    assert tuple(drawn[100, 100]) == (128, 128, 128)


@pytest.mark.parametrize("size", [(1, 1), (7, 60), (60, 7), (60, 45), (480, 640), (3000, 4000)])
def test_any_size_any_box_any_name(size: tuple[int, int]) -> None:
    height, width = size
    boxes = [
        *([0, 0, width, height], [-50, -50, 2 * width, 2 * height], [width, height, width, height]),
        *([0, 0, 0, 0], [width / 2, 0, width / 3, height], [0.4, 0.4, 0.6, 0.6]),
    ]
    names = ["猫", "a" * 5000, "\x1b[31m\n\0", "Кошка", "", "\ud800\u202e🐈 chien à poil"]
    drawn = draw(grey(*size), prediction([[float(v) for v in b] for b in boxes], size, names))
    times = -(-320 // max(size))
    assert drawn.size == (times * width, times * height)


def test_texts_lie_within_and_hide_no_other_where_there_is_room() -> None:
    size = (480, 640)
    draw_number = np.random.default_rng(0)
    corners = draw_number.uniform(0, 1, (20, 2)) * [630, 470]
    boxes = np.concatenate([corners, corners + draw_number.uniform(30, 80, (20, 2))], 1)
    whole = [drawing._within(box, (640, 480)) for box in boxes.tolist()]
    same = [whole[0]] * 4  # four boxes in one place
    font = drawing._font(12)
    places = drawing._places([*whole, *same], ["class 7 0.87"] * 24, font, 2, (640, 480))
    for i, (x1, y1, x2, y2) in enumerate(places):
        assert 0 <= x1 < x2 < size[1]
        assert 0 <= y1 < y2 < size[0]
        assert drawing._hidden(places[i], places[:i]) == 0


def test_names_in_letters_that_the_font_has_and_has_not() -> None:
    font = drawing._font(12)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert drawing._fitted(font, "Кошка à poil", 17, 0.5, 300) == "Кошка à poil 0.50"
    assert drawing._fitted(font, "猫", 17, 0.5, 300) == "#17 0.50"
    assert drawing._fitted(font, "a\nb", 17, 0.5, 300) == "a\\nb 0.50"
    short = drawing._fitted(font, "a" * 300, 17, 0.5, 100)
    assert short.endswith("a\u2026 0.50")
    assert font.getlength(short) < 100


def test_an_image_of_another_size() -> None:
    with pytest.raises(ValueError, match="is 10 x 20, the prediction of one of 20 x 10"):
        draw(grey(10, 20), prediction([], (20, 10)))
