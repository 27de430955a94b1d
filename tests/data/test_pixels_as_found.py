"""Pixels as a viewer shows them, sizes that no one expects, pretrained networks' own input."""

# N batch, C channels, H W space

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.data import load_data
from accuracy_booster.data.pixels import to_rgb
from accuracy_booster.data.augmentation import train_transform
from accuracy_booster.data.transforms import CentreCrop, eval_transform
from accuracy_booster.models.preprocessing import pretrained_preprocessing


def hwc(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def only_image(data, split: str = "test") -> np.ndarray:
    (images, _), *_ = data.loaders[split]
    return hwc(images[0])


# orientation


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


# colours


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


# sizes


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


# what a pretrained network wants

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


def test_where_libraries_say_what_they_trained_on():
    known = pretrained_preprocessing("timm/test_resnet")
    assert known is not None
    assert (known.image_size, known.mean, known.crop_pct) == ((160, 160), (0.5,) * 3, 0.95)
    inception = pretrained_preprocessing("torchvision/inception_v3")
    assert inception is not None
    assert inception.image_size == (299, 299)
    assert CentreCrop((299, 299), crop_pct=inception.crop_pct).cover == (342, 342)
    efficient = pretrained_preprocessing("torchvision/efficientnet_b4")
    assert efficient is not None
    assert (efficient.interpolation, efficient.image_size) == ("bicubic", (380, 380))
    ours = pretrained_preprocessing("resnet50")  # torchvision's weights, at the size of their test
    assert ours is not None
    assert (ours.image_size, ours.crop_pct) == ((224, 224), 0.965)
    larger = pretrained_preprocessing("timm/convnext_tiny", (288, 288))  # timm tests it there
    assert larger is not None
    assert (larger.image_size, larger.crop_pct) == ((288, 288), 1.0)
    assert pretrained_preprocessing("resnet20") is None
    assert pretrained_preprocessing("resnet50v1") is None


def test_training_images_are_resized_as_asked():
    rows = torch.tensor([[0, 255] * 4] * 8, dtype=torch.uint8)[None].repeat(3, 1, 1)
    for kind, values in (("nearest", {0, 255}), ("bilinear", None)):
        image = train_transform("none", (13, 13), None, kind)(rows)
        assert (set(image.unique().tolist()) == {0, 255}) == (values is not None), kind


@pytest.fixture
def weights_at_hand(tmp_path, monkeypatch) -> Path:
    """timm finds the weights of test_resnet on this disk."""
    import timm

    torch.manual_seed(0)
    made = timm.create_model("test_resnet")
    torch.save(made.state_dict(), tmp_path / "w.pth")
    build = timm.create_model

    def local(name, pretrained=False, **given):
        if pretrained:
            given["pretrained_cfg_overlay"] = {"file": str(tmp_path / "w.pth")}
        return build(name, pretrained=pretrained, **given)

    monkeypatch.setattr(timm, "create_model", local)
    return tmp_path


def test_a_pretrained_network_gets_its_own_images(weights_at_hand, make_folder, capsys):
    root = str(make_folder({f"{s}/{c}": 4 for s in ("train", "val") for c in "ab"}, (180, 170)))
    common = {"data": root, "epochs": 1, "batch_size": 4, "device": "cpu", "compile": "off"}
    run = weights_at_hand / "run"
    result = ab.train("timm/test_resnet", pretrained=True, output=str(run), **common)
    told = capsys.readouterr().err
    line = (
        "images as timm/test_resnet was pretrained on: 160 x 160 pixels, mean 0.5,0.5,0.5, "
        "std 0.5,0.5,0.5, bilinear, crop_pct 0.95"
    )
    assert told.count(line) == 1
    kept = result.config
    assert (kept.image_size, kept.mean, kept.std) == ((160, 160), (0.5,) * 3, (0.5,) * 3)
    assert (kept.interpolation, kept.crop_pct, kept.crop_mode) == ("bilinear", 0.95, "center")
    assert "crop_pct: 0.95" in (run / "config.yaml").read_text()
    assert ab.evaluate(run).to_dict() == result.test.to_dict()
    # the command line, with other values, for compare too
    words = ["--pretrained", "--data", root, "--epochs", "1", "--batch-size", "4"]
    words += ["--device", "cpu", "--compile", "off", "--image-size", "64", "--mean", "0.4,0.5,0.6"]
    words += ["--interpolation", "bicubic", "--crop-pct", "1.0", "--crop-mode", "squash"]
    out = weights_at_hand / "compared"
    words = ["--model", "timm/test_resnet", *words, "--output", str(out)]
    assert main(["compare", "--blocks", "none", "--seeds", "1", *words, "--json"]) == 0
    told = capsys.readouterr().err
    assert "64 x 64 pixels, mean 0.4,0.5,0.6, std 0.5,0.5,0.5, bicubic, crop_pct 1 (squash)" in told
    text = (out / "none-s0/config.yaml").read_text()
    assert "interpolation: bicubic" in text
    assert "crop_mode: squash" in text
    measured = ab.evaluate(out / "none-s0").to_dict()
    assert measured == json.loads((out / "none-s0/run.json").read_text())["test"]
    assert main(["eval", str(out / "none-s0"), "--crop-mode", "centre"]) == 2
    assert "center, squash or border" in capsys.readouterr().err


def test_a_fresh_network_does_not_get_them(make_folder):
    from accuracy_booster.training import engine, resolve

    root = str(make_folder({"train/a": 2, "val/a": 1}, (180, 170)))
    config = resolve("timm/test_resnet", data=root)
    data = engine.open_data_anew(config)
    assert (data.image_size, data.crop_pct, data.interpolation) == ((224, 224), None, None)
    assert data.mean == (0.485, 0.456, 0.406)
    assert engine.fill_in(config, data).crop_pct is None  # an older run's means the same


def test_a_module_of_timm_is_measured_on_its_own_images(make_folder, capsys):
    import timm
    from timm.data import create_transform, resolve_data_config

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2).eval()
    root = make_folder({"test/a": 3, "test/b": 3}, (180, 240))
    metrics = ab.evaluate(model, str(root), device="cpu")
    assert "160 x 160 pixels, mean 0.5,0.5,0.5" in capsys.readouterr().err
    transform = create_transform(**resolve_data_config({}, model=model))
    files = sorted(root.glob("test/*/*.png"))
    x = torch.stack([transform(Image.open(file)) for file in files])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert metrics.loss == pytest.approx(loss.item(), abs=1e-3)
    ab.evaluate(model, str(root), device="cpu", image_size=64, mean=(0.1, 0.2, 0.3))
    assert "64 x 64 pixels, mean 0.1,0.2,0.3, std 0.5" in capsys.readouterr().err


def test_grey_images_for_a_pretrained_network():
    own = pretrained_preprocessing("timm/convnext_tiny")
    data = load_data("digits", own=own, image_size=16)
    assert data.in_chans == 1
    assert data.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("interpolation", "lanczos", "bilinear, bicubic or nearest"),
        ("crop_pct", 1.2, r"crop_pct=1.2 must be a share in \(0, 1\]"),
        ("crop_mode", "centre", "center, squash or border"),
    ],
)
def test_bad_values_are_refused(make_folder, option, value, message):
    root = str(make_folder({"train/a": 1, "val/a": 1}))
    with pytest.raises(ValueError, match=message):
        ab.train("resnet8", data=root, **{option: value})
    with pytest.raises(ValueError, match=option):
        load_data(root, **{option: value})
