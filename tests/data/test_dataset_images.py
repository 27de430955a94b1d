"""Images of data sets that the caller gives: every kind of item as uint8 [C, H, W]."""

# C channels, H W space

from __future__ import annotations

import multiprocessing
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from accuracy_booster.data.dataset_images import DatasetImages, WrongItem, as_pixels
from accuracy_booster.data.images import UnreadableImage

PIXELS = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5) * 4


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        PIXELS.float() / 255,
        PIXELS.double() / 255,
        PIXELS.permute(1, 2, 0).numpy(),
        PIXELS.permute(1, 2, 0).numpy().astype(np.float32) / 255,
        Image.fromarray(PIXELS.permute(1, 2, 0).numpy()),
    ],
    ids=["uint8", "float", "double", "array", "float array", "pil"],
)
def test_every_kind_of_image_gives_the_same_pixels(image):
    assert torch.equal(as_pixels(image, "x"), PIXELS)


def test_grey_images_keep_their_channel_and_pil_gives_three():
    grey = PIXELS[0]
    assert torch.equal(as_pixels(grey, "x"), grey[None])
    assert torch.equal(as_pixels(grey.numpy(), "x"), grey[None])
    assert as_pixels(Image.fromarray(grey.numpy()), "x").shape == (3, 4, 5)


def test_what_a_bicubic_resize_overshoots_is_cut_off():
    assert as_pixels(torch.full((3, 2, 2), 1.05), "x").unique().tolist() == [255]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ((PIXELS / 255 - 0.5) / 0.2, "leave Normalize out"),
        (PIXELS.float(), "divide by 255"),
        (PIXELS.long(), "holds torch.int64"),
        (PIXELS.permute(1, 2, 0).repeat(8, 1, 1), "has the shape"),
        (torch.full((3, 2, 2), float("nan")), "outside"),
        ("cat.png", "must be a PIL image"),
    ],
)
def test_what_is_no_image_is_told(image, told):
    with pytest.raises(WrongItem, match=told):
        as_pixels(image, "number 3")


class Listed:
    """A data set of items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


def test_an_item_that_raises_is_an_unreadable_image():
    images = DatasetImages(Listed([OSError("gone"), (PIXELS, 1)]), "photos", None, None)
    images.labels = torch.tensor([0, 1])
    with pytest.raises(UnreadableImage, match=r"photos, number 0: OSError: gone"):
        images[0]
    image, label = images[1]
    assert torch.equal(image, PIXELS)
    assert label == 1
    with pytest.raises(ValueError, match=r"none of 1 items of photos can be read.*gone"):
        DatasetImages(Listed([OSError("gone")]), "photos", None, None)


def test_columns_are_told_by_what_they_hold_or_named():
    row = {"id": 3, "photo": Image.new("RGB", (5, 4)), "label": 1, "kind": 0}
    images = DatasetImages(Listed([row]), "rows", None, None)
    assert (images.image_key, images.label_key) == ("photo", "label")
    assert DatasetImages(Listed([row]), "rows", None, "kind").label_key == "kind"
    with pytest.raises(ValueError, match=r"label_column='kid' must be one of id, photo"):
        DatasetImages(Listed([row]), "rows", None, "kid")
    with pytest.raises(WrongItem, match="name it with label_column"):
        DatasetImages(Listed([{"image": PIXELS, "sort": 1}]), "rows", None, None)
    with pytest.raises(WrongItem, match=r"is Tensor; it must be \(image, label\)"):
        DatasetImages(Listed([PIXELS]), "rows", None, None)


def test_a_random_transform_is_noticed_and_random_states_stay():
    def flipped(draw):
        class Flipping(Listed):
            def __getitem__(self, index):
                image, label = self.items[index]
                return (image.flip(2) if draw() < 0.5 else image), label

        images = DatasetImages(Flipping([(PIXELS, 0)] * 20), "x", None, None)
        images.labels = torch.zeros(20, dtype=torch.int64)
        states = torch.get_rng_state(), random.getstate()
        is_random = images.is_random()
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1] == random.getstate()
        return is_random

    draws = (lambda: torch.rand(()).item(), random.random, np.random.rand)
    assert [flipped(draw) for draw in draws] == [True, True, True]
    assert not flipped(lambda: 1.0)


def test_images_of_several_channel_counts_are_refused():
    images = DatasetImages(Listed([(PIXELS, 0), (PIXELS[:1], 0)]), "x", None, None)
    images.labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(WrongItem, match="has 1 channels and the first image has 3"):
        images[1]


def test_what_another_process_cannot_get_is_told(monkeypatch):
    """Where processes are forked, nothing is sent to them."""
    local = Listed([(PIXELS, 0)])
    local.change = lambda image: image
    images = DatasetImages(local, "x", None, None)
    images.check_workers(2)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    images.check_workers(0)
    with pytest.raises(ValueError, match="cannot be sent to another process"):
        images.check_workers(2)
    plain = DatasetImages(TensorDataset(PIXELS[None], torch.zeros(1)), "x", None, None)
    plain.check_workers(2)
