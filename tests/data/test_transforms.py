"""Resizing and centre crops against Pillow and timm, and bounds on memory."""

from __future__ import annotations

import contextlib
import math
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import (
    chw,
    everything,
    hwc,
    one_bit_png,
    only_image,
)

from accuracy_booster.data import (
    augmentation,
    cropping,
    load_data,
    transforms,
)
from accuracy_booster.data.choices import AUGMENTS, CROP_MODES
from accuracy_booster.data.cropping import default_crop_pct
from accuracy_booster.data.image_errors import TooManyPixels
from accuracy_booster.data.transforms import CentreCrop, eval_transform
from accuracy_booster.models.preprocessing import pretrained_preprocessing


def test_large_test_images_are_centre_crops(make_folder):
    """As torchvision's and timm's recipes: the shorter edge to 256, the centre 224."""
    rows, columns = np.mgrid[0:400, 0:300]
    picture = np.stack([columns * 0.8, rows * 0.6, 77 + 0 * rows], axis=2).astype(np.uint8)
    data = load_data(str(make_folder({"train/a": 1, "val/a": [picture]}, size=(100, 100))))
    image = everything(data, "test")[0][0]
    resized = Image.fromarray(picture).resize((256, 341), Image.Resampling.BILINEAR)
    expected = chw(np.array(resized.crop((16, 58, 240, 282))))
    assert (image.int() - expected.int()).abs().max() <= 2


@pytest.mark.parametrize("size", [(32, 96), (96, 32)])
def test_test_images_for_an_oblong_network_have_no_black_borders(make_folder, size):
    white = Image.new("RGB", (200, 200), "white")
    data = load_data(str(make_folder({"train/a": [white], "val/a": [white]})), image_size=size)
    for split in ("train", "test"):
        assert everything(data, split)[0].min() == 255


@pytest.mark.parametrize("shape", [(1, 30000), (30000, 1), (1, 400000), (3, 5000)])
def test_a_very_long_image_takes_little_memory(make_folder, shape):
    ramp = np.linspace(0, 255, max(shape)).astype(np.uint8)
    picture = np.broadcast_to(ramp if shape[1] > shape[0] else ramp[:, None], shape)
    picture = np.stack([picture] * 3, axis=2)
    root = make_folder({"train/a": [picture] * 2, "val/a": [picture]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = load_data(str(root), batch_size=2)
    image = only_image(data)
    assert image.shape == (224, 224, 3)
    assert np.abs(image.astype(int) - 127).max() <= 2  # the middle of the ramp
    assert only_image(data, "train").shape == (224, 224, 3)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024, f"{grown / 1024:.0f} MiB"


@pytest.mark.parametrize("shape", [(20, 300), (300, 20), (40, 333), (50, 50)])
@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_the_middle_of_a_long_image_is_pillows(shape, size):
    """Pillow resizes a part (`box`) of the whole image, with the whole image around it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [120 + 100 * np.sin(x / 25 + c) * np.cos(y / 17) for c in range(3)]
    picture = np.stack(waves, axis=2).astype(np.uint8)
    (h, w), (height, width) = shape, (round(side * 256 / 224) for side in size)
    scale = max(height / h, width / w)
    part = [side / scale for side in size]
    box = ((w - part[1]) / 2, (h - part[0]) / 2, (w + part[1]) / 2, (h + part[0]) / 2)
    how = Image.Resampling.BILINEAR
    expected = np.array(Image.fromarray(picture).resize(size[::-1], how, box=box)).astype(int)
    image = hwc(CentreCrop(size)(torch.tensor(picture).permute(2, 0, 1)))
    assert np.abs(image - expected).max() <= 8  # the grid is off by less than a pixel
    flat = np.full((*shape, 3), 77, np.uint8)
    assert (hwc(CentreCrop(size)(torch.tensor(flat).permute(2, 0, 1))) == 77).all()


NETWORKS = ["timm/test_resnet", "timm/test_byobnet", "timm/test_nfnet", "timm/convnext_tiny"]


@pytest.mark.parametrize("name", [*NETWORKS, "timm/vit_base_patch16_224"])
def test_images_for_measuring_are_timms(name, pixels):
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    own = pretrained_preprocessing(name)
    assert own is not None
    config = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name[5:]).to_dict())
    theirs = create_transform(**config)
    ours = eval_transform(
        own.image_size, None, False, own.interpolation, own.crop_pct, own.crop_mode, own.mean
    )
    for shape in ((300, 401), (257, 180)):
        picture = pixels(name, *shape)
        smooth = np.array(Image.fromarray(picture).resize((shape[1], shape[0])).convert("RGB"))
        expected = theirs(Image.fromarray(smooth))
        scaled = ours(torch.tensor(smooth).permute(2, 0, 1)).float() / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (own.mean, own.std))
        assert ((scaled - mean) / std - expected).abs().max() < 3 / 255 / min(own.std)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
def test_crop_modes_are_timms(pixels, mode, interpolation, crop_pct):
    from timm.data import create_transform

    mean = (0.5, 0.25, 0.75)
    theirs = create_transform(
        (3, 32, 32),
        crop_mode=mode,
        crop_pct=crop_pct,
        interpolation=interpolation,
        mean=mean,
        std=(1, 1, 1),
    )
    ours = CentreCrop((32, 32), interpolation, crop_pct, mode, mean)
    for shape in ((50, 70), (70, 51), (20, 24)):
        picture = pixels(mode, *shape)
        expected = theirs(Image.fromarray(picture)) + torch.tensor(mean)[:, None, None]
        image = ours(torch.tensor(picture).permute(2, 0, 1)).float() / 255
        assert (image - expected).abs().max() < 8 / 255, shape  # Pillow rounds twice
        assert (image - expected).abs().mean() < 0.5 / 255


pytestmark = pytest.mark.forks


def shapes():
    return ((1, 400_000), (400_000, 1), (3, 5_000_000), (5_000_000, 3), (3000, 2000), (1, 1))


@pytest.mark.parametrize("shape", shapes())
@pytest.mark.parametrize("small", [False, True])
def test_no_transform_makes_too_many_pixels(monkeypatch, shape, small):
    """Each makes the size or refuses; nothing larger than the bound is made on the way."""
    from torchvision.transforms.v2 import functional as F

    most, real = 2_000_000, F.resize
    monkeypatch.setattr(cropping, "MOST", most)

    def checked(image, size, **options):
        assert image.shape[-2] * size[1] <= max(most, image.shape[-2] * image.shape[-1])
        assert size[0] * size[1] <= max(most, image.shape[-2] * image.shape[-1])
        return real(image, size, **options)

    monkeypatch.setattr(F, "resize", checked)
    image = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, *shape)
    for size in ((32, 32), (8, 2000)):
        made = [augmentation.train_transform(a, size, None) for a in AUGMENTS[1:]]
        for mode in CROP_MODES:
            for share in (None, 0.5, 1e-4):
                made.append(transforms.eval_transform(size, None, small, "bilinear", share, mode))
        for transform in made:
            with contextlib.suppress(TooManyPixels):
                assert transform(image).shape == (3, *size)


def test_an_image_of_a_row_is_unreadable_and_named(make_folder, pixels):
    pictures = [pixels(str(i), 70, 70) for i in range(3)]
    root = make_folder({"train/a": pictures, "val/a": [one_bit_png(400_000, 1), *pictures]})
    data = load_data(str(root), crop_mode="squash", image_size=300)
    (batch,) = data.loaders["test"].batches(0)
    (reason,) = batch.unreadable.values()
    assert "val/a/000.png: to resize its 400000 x 1 pixels" in reason
    assert "pixels, more than 100,000,000" in reason
    with pytest.raises(ValueError, match=r"image_size=20000 asks for 400,000,000 pixels"):
        load_data(str(root), image_size=20_000)


def test_the_default_crop_in_timms_words():
    """timm rounds down what it resizes to; without a crop_pct we take the nearest number."""
    for side in range(8, 600):
        crop_pct, cover = default_crop_pct((side, side)), CentreCrop((side, side)).crop.cover[0]
        assert math.floor(side / crop_pct) == cover
        assert CentreCrop((side, side), crop_pct=crop_pct).crop.cover == (cover, cover)
    assert default_crop_pct((224, 224)) == 0.875
