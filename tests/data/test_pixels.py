"""Pixels as a viewer shows them: orientation, colour modes, transparency, 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.datasets import (
    chw,
    everything,
    only_image,
)

from accuracy_booster.data import load_data
from accuracy_booster.data.pixels import to_rgb


def test_other_colour_modes_become_rgb(make_folder, pixels):
    rgb = Image.fromarray(pixels("rgb", 8, 8))
    alpha = Image.fromarray(pixels("alpha", 8, 8)[..., 0])
    grey = rgb.convert("L")
    with_alpha = rgb.copy()
    with_alpha.putalpha(alpha)
    share = np.array(alpha)[..., None] / 255
    over_white = np.array(rgb) * share + 255 * (1 - share)
    palette = rgb.quantize(16)
    colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    black_white = Image.fromarray(np.array(grey) > 100)
    pictures = [rgb, grey, with_alpha, palette, black_white]
    root = make_folder({"train/a": 1, "val/a": pictures})
    images, _ = everything(load_data(str(root)), "test")
    assert images.shape == (5, 3, 8, 8)
    expected = [
        np.array(rgb),
        np.array(grey)[..., None].repeat(3, 2),
        over_white,
        colours[np.array(palette)],
        np.where(np.array(black_white), 255, 0).astype(np.uint8)[..., None].repeat(3, 2),
    ]
    for image, wanted in zip(images, expected, strict=True):
        slack = 1 if wanted is over_white else 0  # a rounding
        assert (image - chw(wanted).double()).abs().max() <= slack


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_are_upright(make_folder, pixels, tmp_path, orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{form.lower()}"
    options = {"quality": 100, "lossless": True} if form == "WEBP" else {}
    Image.fromarray(pixels("x", 12, 20)).save(path, form, exif=exif, **options)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    root = make_folder({"train/a": [path.read_bytes()], "val/a": [path.read_bytes()]})
    data = load_data(str(root))
    assert data.image_size == ((20, 12) if orientation > 4 else (12, 20))
    assert np.array_equal(only_image(data), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_do_not_spoil_an_image(make_folder, pixels, tmp_path):
    picture = Image.fromarray(pixels("x", 8, 8))
    picture.save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    root = make_folder({"val/a": [(tmp_path / "x.png").read_bytes()]})
    data = load_data(str(root), splits=("test",))
    assert np.array_equal(only_image(data), np.array(picture))


def test_hidden_colours_do_not_show():
    """The rule: over white, as a browser with a white page shows it."""
    colours = np.zeros((4, 4, 4), np.uint8)
    colours[..., 0] = 255
    colours[2:, :, 3] = 255
    colours[1, :, 3] = 51  # a fifth of red, four fifths of white
    expected = np.full((4, 4, 3), 255, np.uint8)
    expected[2:, :, 1:] = 0
    expected[1, :, 1:] = 204
    rgba = Image.fromarray(colours)
    assert np.array_equal(np.array(to_rgb(rgba)), expected)
    assert np.array_equal(np.array(to_rgb(rgba.convert("RGBa"))), expected)
    grey = Image.fromarray(np.array([[[0, 0], [0, 255], [100, 255]]], np.uint8), "LA")
    assert np.array(to_rgb(grey))[0, :, 0].tolist() == [255, 0, 100]


def test_transparent_entries_of_palettes_and_colour_keys(tmp_path):
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    palette.save(tmp_path / "index.png", transparency=1)
    palette.save(tmp_path / "shares.png", transparency=bytes([0, 255, 51]))
    palette.save(tmp_path / "index.gif", transparency=1)
    Image.fromarray(np.array([[[9, 9, 9], [8, 8, 8]]], np.uint8)).save(
        tmp_path / "key.png", transparency=(9, 9, 9)
    )
    Image.fromarray(np.array([[7, 6]], np.uint8)).save(tmp_path / "grey.png", transparency=7)
    white = [255, 255, 255]
    for name, expected in {
        "index.png": [[255, 0, 0], white, [0, 0, 255]],
        "shares.png": [white, [0, 255, 0], [204, 204, 255]],
        "index.gif": [[255, 0, 0], white, [0, 0, 255]],
        "key.png": [white, [8, 8, 8]],
        "grey.png": [white, [6, 6, 6]],
    }.items():
        with Image.open(tmp_path / name) as image:
            assert np.array(to_rgb(image))[0].tolist() == expected, name


def test_more_than_eight_bits(tmp_path):
    """Pillow's own conversion makes every value over 255 white."""
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tif")
    for name in ("x.png", "x.tif"):
        with Image.open(tmp_path / name) as image:
            shown = np.array(to_rgb(image))
        assert shown.tolist() == [[[v] * 3 for v in (0, 0, 1, 128, 255)]]
    cv2 = pytest.importorskip("cv2")
    assert np.array_equal(cv2.imread(str(tmp_path / "x.png")), shown)  # grey: BGR is RGB
    whole = Image.fromarray(np.array([[0, 7, 255]], np.int32))
    assert np.array(to_rgb(whole))[0, :, 0].tolist() == [0, 7, 255]
    share = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32))
    assert np.array(to_rgb(share))[0, :, 0].tolist() == [0, 128, 255, 0]
    level = Image.fromarray(np.array([[-3.0, 12.6, 255.0]], np.float32))
    assert np.array(to_rgb(level))[0, :, 0].tolist() == [0, 13, 255]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_pillows_conversion(pixels, tmp_path, mode):
    image = Image.fromarray(pixels(mode, 8, 8)).convert(mode)
    assert np.array_equal(np.array(to_rgb(image)), np.array(image.convert("RGB")))
    if mode == "CMYK":
        image.save(tmp_path / "x.jpg", quality=100)
        with Image.open(tmp_path / "x.jpg") as stored:
            assert stored.mode == "CMYK"
            again = np.array(to_rgb(stored)).astype(int)
        assert np.abs(again - np.array(image.convert("RGB"))).max() < 40
