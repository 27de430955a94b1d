"""Predictions of a detector: values, pictures and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

from accuracy_booster import files
from accuracy_booster.data.images import UnreadableImage
from accuracy_booster.detection import Prediction, draw, drawing, predict, predict_files
from accuracy_booster.detection.detector import faster_rcnn

CLASSES = ["cat", "dog", "émeu"]


class Finds(nn.Module):
    """A detector that finds the same in every image, in no order, and notes what it was given."""

    def __init__(self, labels: tuple[int, ...] = (1, 3, 2)):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.labels = labels
        self.seen: list[torch.Tensor] = []

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen += images
        boxes = torch.tensor([[1.0, 2, 5, 6.25], [0, 0, 3, 3], [2, 2, 7, 7]])
        scores = torch.tensor([0.6, 0.9, 0.1])
        return [{"boxes": boxes, "labels": torch.tensor(self.labels), "scores": scores}] * len(
            images
        )


def test_predictions_are_sorted_and_above_the_threshold() -> None:
    model = Finds()
    image = torch.full((3, 10, 20), 255, dtype=torch.uint8)
    (found,) = predict(model, image, classes=CLASSES, threshold=0.6)
    assert found.to_dict() == {
        "image": 0,
        "height": 10,
        "width": 20,
        "boxes": [[0, 0, 3, 3], [1, 2, 5, 6.25]],
        "scores": [0.9, 0.6],  # not 0.8999999761581421
        "labels": [3, 1],
        "names": ["émeu", "cat"],
    }
    assert len(found) == 2
    assert model.training
    assert torch.equal(model.seen[0], torch.ones(3, 10, 20))
    (all_of_them,) = predict(model, [image], classes=CLASSES, threshold=0)
    assert all_of_them.names == ["émeu", "cat", "dog"]
    (none,) = predict(model, image, classes=CLASSES, threshold=1)
    assert none.to_dict()["boxes"] == []
    assert none.boxes.shape == (0, 4)


def test_a_detector_of_torchvision() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 4, 1))
    body.out_channels = 8
    torch.manual_seed(0)
    model = FasterRCNN(
        body,
        num_classes=4,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        min_size=64,
        max_size=96,
    )
    images = [torch.randint(256, (3, 50, 80), dtype=torch.uint8), Image.new("L", (40, 30))]
    first, second = predict(model, images, classes=CLASSES, threshold=0.05)
    assert (first.image, first.size) == (0, (50, 80))
    assert (second.image, second.size) == (1, (30, 40))
    assert len(first) > 1
    assert (first.boxes.max(0).values <= torch.tensor([80, 50, 80, 50])).all()
    assert model.training
    draw(images[0], first)


def test_files_are_read_upright_and_directories_sorted(
    make_folder: Callable[..., Path], pixels: Callable[..., np.ndarray]
) -> None:
    root = make_folder({"b": 1, "a": 2}, size=(8, 12))
    turned = Image.fromarray(pixels("turned", 8, 12))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "turned.png", exif=exif)
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "again.png").symlink_to(root / "a" / "001.png")
    model = Finds()
    found = list(predict(model, [root / "b" / "000.png", root], classes=CLASSES))
    assert [str(Path(p.image).relative_to(root)) for p in found] == [
        *("b/000.png", "turned.png", "a/000.png", "a/001.png", "b/000.png")
    ]
    assert found[0].size == (8, 12)
    assert found[1].size == (12, 8)
    expected = torch.from_numpy(np.rot90(np.array(turned), -1).copy()).permute(2, 0, 1) / 255
    assert torch.equal(model.seen[1], expected)
    (by_hand,) = predict(model, Image.open(root / "turned.png"), classes=CLASSES)
    assert by_hand.size == (12, 8)
    assert torch.equal(model.seen[-1], expected)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (torch.zeros(3, 4, 4), r"torch.float32 \[3, 4, 4\]; a tensor must be torch.uint8"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"uint8 \[4, 4, 3\]; a tensor must be"),
        (np.zeros((3, 4, 4)), "number 0 is ndarray; give a path"),
        ("nowhere.jpg", "there is no file or directory 'nowhere.jpg'"),
    ],
)
def test_images_that_are_none(image: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(predict(Finds(), [image], classes=CLASSES))


def test_what_predict_refuses(tmp_path: Path) -> None:
    image = torch.zeros(3, 10, 10, dtype=torch.uint8)
    with pytest.raises(ValueError, match="threshold=50 must be from 0 to 1"):
        predict(Finds(), image, classes=CLASSES, threshold=50)
    with pytest.raises(ValueError, match="labels 1 to 3, and there are 2 classes"):
        list(predict(Finds(), image, classes=CLASSES[:2], threshold=0))
    with pytest.raises(ValueError, match="labels 0 to 2, and there are 3 classes"):
        list(predict(Finds((0, 1, 2)), image, classes=CLASSES, threshold=0))
    (tmp_path / "x.heic").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"holds no images that Pillow reads; it holds 1 \.heic"):
        list(predict(Finds(), tmp_path, classes=CLASSES))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"^cannot read the image .*bad\.jpg: it is no image"):
        list(predict(Finds(), tmp_path / "bad.jpg", classes=CLASSES))


# --- files


def test_pictures_and_values_are_written(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"a": 1, "b": 2, "c": [b"no image"]}, size=(20, 24))
    output = tmp_path / "out"
    told = []
    made = predict_files(
        Finds(), CLASSES, [root], output, 0.5, lambda path, found: told.append((path, found))
    )
    names = ["000.png", "000-2.png", "001.png"]
    assert [picture.name for picture in made.pictures] == names
    (bad,) = made.unreadable
    assert bad.endswith("c/000.png")
    assert "it is no image" in made.unreadable[bad]
    assert [path for path, found in told if found is None] == [bad]
    assert [found for _, found in told if found is not None] == made.predictions
    written = files.read_json(output / "predictions.json", must_hold_hash=True)
    assert written["finished"] is True
    assert written["classes"] == CLASSES
    assert written["unreadable"] == made.unreadable
    assert [image["picture"] for image in written["images"]] == names
    first = {k: v for k, v in written["images"][0].items() if k != "picture"}
    assert first == made.predictions[0].to_dict()
    assert first["image"].endswith("a/000.png")
    assert {file.name for file in output.iterdir()} == {*names, "predictions.json"}
    with Image.open(output / "000.png") as picture, Image.open(root / "a" / "000.png") as source:
        expected = np.array(draw(source, made.predictions[0]))
        assert np.array_equal(np.array(picture), expected)


def test_a_second_prediction_replaces_the_first_alone(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder({"a": 1}, size=(20, 24))
    output = tmp_path / "out"
    predict_files(Finds(), CLASSES, [root], output, 0.5)
    before = (output / "000.png").read_bytes()
    (output / "000-2.png").write_bytes(b"mine")
    made = predict_files(Finds(), CLASSES, [root, output / "000.png"], output, 0)
    # 000.png is a source now, 000-2.png is another's file
    assert [picture.name for picture in made.pictures] == ["000-3.png", "000-4.png"]
    assert (output / "000.png").read_bytes() == before
    assert (output / "000-2.png").read_bytes() == b"mine"
    third = predict_files(Finds(), CLASSES, [root], output, 0)
    assert [picture.name for picture in third.pictures] == ["000-3.png"]


def test_one_name_in_two_cases(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"a": 1})
    (root / "a" / "000.png").rename(root / "a" / "Cat.png")
    (root / "b").mkdir()
    (root / "b" / "cat.PNG").write_bytes((root / "a" / "Cat.png").read_bytes())
    made = predict_files(Finds(), CLASSES, [root], tmp_path / "out")
    assert [picture.name for picture in made.pictures] == ["Cat.png", "cat-2.png"]


def test_output_directories_that_are_refused(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder({"a": 1})
    before = (root / "a" / "000.png").read_bytes()
    with pytest.raises(
        ValueError, match=r"holds other files \(000\.png\) and no predictions\.json"
    ):
        predict_files(Finds(), CLASSES, [root], root / "a")
    assert [file.name for file in (root / "a").iterdir()] == ["000.png"]
    assert (root / "a" / "000.png").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "predictions.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(ValueError, match="is of no earlier prediction"):
        predict_files(Finds(), CLASSES, [root], other)
    with pytest.raises(ValueError, match="is a file, not a directory"):
        predict_files(Finds(), CLASSES, [root], root / "a" / "000.png")


def test_no_file_can_be_read(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder({"a": [b"x", b"y"]})
    with pytest.raises(ValueError, match="none of 2 images can be read; the first: cannot read"):
        predict_files(Finds(), CLASSES, [root], tmp_path / "out")


# --- drawing


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


def test_a_threshold_below_the_detectors_own_counts():
    detector = tiny_detector()
    detector.roi_heads.score_thresh = 0.9
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    (few,) = predict(detector, image, classes=["a", "b"], threshold=0.9)
    (many,) = predict(detector, image, classes=["a", "b"], threshold=0.0)
    assert len(few) < len(many)
    assert detector.roi_heads.score_thresh == 0.9


def test_the_names_of_the_classes_are_the_detectors():
    detector = tiny_detector()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    with pytest.raises(ValueError, match="pass classes="):
        predict(detector, image)
    detector.classes = ("one", "two")
    (found,) = predict(detector, image, threshold=0.0)
    assert set(found.names) <= {"one", "two"}
    assert found.names


def tiny_detector():
    torch.manual_seed(0)
    small = {"rpn_post_nms_top_n_test": 20, "min_size": 64, "max_size": 64}
    return faster_rcnn("timm/test_resnet", num_classes=3, **small).eval()
