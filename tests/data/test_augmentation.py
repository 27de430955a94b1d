"""Random crops and mirroring against a slow reference, of one image and of a batch."""

# N batch, C channels, H W space

from collections import Counter

import numpy as np
import pytest
import torch
from support.datasets import (
    chw,
    crops,
    everything,
)

from accuracy_booster.data import load_data
from accuracy_booster.data.augmentation import Crop, train_transform
from accuracy_booster.data.random_streams import LEFT, MIRROR, TOP, integers


def slow_crop(image, pad, top, left, mirrored):
    """[C, H, W] -> the same: pad by hand, slice, flip."""
    chans, height, width = image.shape
    out = np.zeros((chans, height + 2 * pad[0], width + 2 * pad[1]), np.uint8)
    out[:, pad[0] : pad[0] + height, pad[1] : pad[1] + width] = image.numpy()
    out = out[:, top : top + height, left : left + width]
    return torch.from_numpy(np.ascontiguousarray(out[:, :, ::-1] if mirrored else out))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(("size", "pad"), [((8, 8), (1, 1)), ((6, 9), (2, 1)), ((5, 4), (0, 3))])
@pytest.mark.parametrize("chans", [1, 3])
def test_crops_equal_a_slow_reference(mirror, size, pad, chans):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, chans, *size), dtype=torch.uint8, generator=generator)
    samples = torch.randperm(60, generator=generator) * 1000
    before = images.clone()
    got = Crop(pad, mirror)(images, samples, 5, 2)
    top = integers(2 * pad[0] + 1, samples, 5, 2, TOP)
    left = integers(2 * pad[1] + 1, samples, 5, 2, LEFT)
    flip = integers(2, samples, 5, 2, MIRROR)
    assert torch.equal(images, before)
    assert (got.shape, got.dtype) == (images.shape, torch.uint8)
    for i, image in enumerate(images):
        where = int(top[i]), int(left[i])
        assert torch.equal(got[i], slow_crop(image, pad, *where, mirror and bool(flip[i])))
    places = Counter(zip(top.tolist(), left.tolist(), strict=True))
    assert len(places) >= min((2 * pad[0] + 1) * (2 * pad[1] + 1), 9)
    assert 15 < int(flip.sum()) < 45


def test_crops_belong_to_the_image_not_to_its_batch():
    images = torch.arange(10 * 64).remainder(251).to(torch.uint8).view(10, 1, 8, 8)
    samples = torch.arange(10)
    whole = Crop((2, 2), True)(images, samples, 1, 1)
    order = torch.tensor([7, 2, 9, 0])
    assert torch.equal(Crop((2, 2), True)(images[order], samples[order], 1, 1), whole[order])


def test_a_crop_of_the_padding_alone_is_never_drawn():
    """At the largest offset the image's last pixel is still there."""
    images = torch.full((200, 1, 2, 2), 255, dtype=torch.uint8)
    got = Crop((1, 1), True)(images, torch.arange(200), 0)
    assert int(got.amax((1, 2, 3)).min()) == 255


def test_the_padding_is_an_eighth_of_each_side(make_folder):
    data = load_data(str(make_folder({"train/a": 4, "test/a": 1}, size=(16, 8))), batch_size=4)
    assert data.loaders["train"].batch_transform == Crop((2, 1), True)
    assert (
        data.loaders["test"].batch_transform is not None
    )  # no augmentation, a batch at a time too


def test_padding_is_black():
    images = torch.full((50, 1, 4, 4), 9, dtype=torch.uint8)
    got = Crop((1, 1), False)(images, torch.arange(50), 0)
    assert set(got.unique().tolist()) == {0, 9}


@pytest.mark.parametrize(
    ("size", "pad"), [((8, 8), (1, 1)), ((16, 8), (2, 1)), ((3, 3), (1, 1)), ((32, 32), (4, 4))]
)
@pytest.mark.parametrize("augment", ["crop", "crop_flip", "auto"])
def test_crops_are_those_of_the_padded_image(make_folder, pixels, size, pad, augment):
    root = make_folder({"train/a": 1, "val/a": 1}, size=size)
    torch.manual_seed(0)
    dataset = load_data(str(root), augment=augment).loaders["train"].dataset
    picture = chw(pixels("train/a/0", *size))
    straight, mirrored = (crops(picture, pad, flip) for flip in (False, True))
    draws = [dataset[0][0].numpy().tobytes() for _ in range(600)]
    valid = straight if augment == "crop" else straight | mirrored
    assert set(draws) <= valid
    assert len(set(draws)) >= (len(valid) if len(valid) < 40 else 0.9 * len(valid))
    if augment != "crop":
        assert 0.4 < sum(draw in mirrored for draw in draws) / len(draws) < 0.6


def test_no_augmentation_leaves_the_pixels(make_folder, pixels):
    root = make_folder({"train/a": 1, "val/a": 1})
    dataset = load_data(str(root), augment="none").loaders["train"].dataset
    for _ in range(20):
        assert torch.equal(dataset[0][0], chw(pixels("train/a/0", 8, 8)))


def test_resized_crops_are_parts_of_the_image_and_mirrored_sometimes(make_folder):
    ramp = np.tile(np.linspace(0, 255, 120).astype(np.uint8), (90, 1))
    picture = np.stack([ramp] * 3, axis=2)
    root = make_folder({"train/a": [picture], "val/a": [picture]})
    torch.manual_seed(0)
    dataset = load_data(str(root), image_size=24).loaders["train"].dataset
    slopes, spans = [], set()
    for _ in range(100):
        image = dataset[0][0].int()
        assert image.shape == (3, 24, 24)
        slopes.append(int(image[0, 0, -1] - image[0, 0, 0]))
        spans.add(abs(slopes[-1]))
    assert 25 < sum(slope < 0 for slope in slopes) < 75
    assert len(spans) > 20  # of different widths
    assert min(spans) > 10


def test_test_images_are_never_augmented(make_folder, pixels):
    data = load_data(str(make_folder({"train/a": 1, "val/a": 1})), augment="crop_flip")
    for _ in range(10):
        assert torch.equal(everything(data, "test")[0][0], chw(pixels("val/a/0", 8, 8)))


def test_training_images_are_resized_as_asked():
    rows = torch.tensor([[0, 255] * 4] * 8, dtype=torch.uint8)[None].repeat(3, 1, 1)
    for kind, values in (("nearest", {0, 255}), ("bilinear", None)):
        image = train_transform("none", (13, 13), None, kind)(rows)
        assert (set(image.unique().tolist()) == {0, 255}) == (values is not None), kind
