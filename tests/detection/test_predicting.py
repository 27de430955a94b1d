"""Predictions as values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.stand_ins import CLASSES, Finds
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

from accuracy_booster.data.images import UnreadableImage
from accuracy_booster.detection import draw, predict
from accuracy_booster.detection.detector import faster_rcnn


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
        (
            np.zeros((3, 4, 4)),
            r"number 0 is an array of float64 \[3, 4, 4\]; an array must be uint8",
        ),
        (3.5, "number 0 is float; give a path"),
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
