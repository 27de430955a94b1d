"""A pretrained network gets the images that it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import torch
from PIL import Image
from support.networks_of_ours import put_in_hub_cache

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.data import choices
from accuracy_booster.data.transforms import CentreCrop
from accuracy_booster.models import preprocessing
from accuracy_booster.models.preprocessing import preprocessing_of, pretrained_preprocessing


def test_where_libraries_say_what_they_trained_on():
    known = pretrained_preprocessing("timm/test_resnet")
    assert known is not None
    assert (known.image_size, known.mean, known.crop_pct) == ((160, 160), (0.5,) * 3, 0.95)
    inception = pretrained_preprocessing("torchvision/inception_v3")
    assert inception is not None
    assert inception.image_size == (299, 299)
    assert CentreCrop((299, 299), crop_pct=inception.crop_pct).crop.cover == (342, 342)
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


@pytest.fixture
def weights_at_hand(tmp_path, monkeypatch) -> Path:
    """timm finds the weights of test_resnet in the hub's cache, and no server is asked."""
    import timm

    torch.manual_seed(0)
    state = timm.create_model("test_resnet").state_dict()
    put_in_hub_cache(tmp_path / "hub", "timm/test_resnet.r160_in1k", state)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
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
    from accuracy_booster.training import resolve
    from accuracy_booster.training.opening_data import fill_in, open_data_of_new_run

    root = str(make_folder({"train/a": 1, "train/b": 1, "val/a": 1}, (180, 170)))
    config = resolve("timm/test_resnet", data=root)
    data = open_data_of_new_run(config)
    assert (data.image_size, data.crop_pct, data.interpolation) == ((224, 224), None, None)
    assert data.mean == (0.485, 0.456, 0.406)
    assert fill_in(config, data).crop_pct is None  # an older run's means the same


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "wat"}, "unknown interpolation 'wat'; known: bicubic, bilinear, box"),
        ({"crop_mode": "middle"}, "unknown crop_mode 'middle'"),
        ({"crop_pct": 5}, "crop_pct=5 must be a number above 0 and at most 2"),
        ({"crop_pct": float("nan")}, "crop_pct=nan must be a number above 0"),
        ({"std": (0.5, 0.0, 0.5)}, "std above 0"),
        ({"crop_pct": 0}, "crop_pct=0 must be a number above 0"),
        ({"crop_pct": "x"}, "crop_pct='x' must be a number above 0"),
        ({"std": (0.5,)}, "must have one value per channel"),
        ({"mean": (0.5,)}, "mean=(0.5,) must have 3 values, one per channel of input_size"),
        ({"mean": ("a", "b", "c")}, "mean=('a', 'b', 'c') must be numbers in a tuple"),
        ({"mean": 0.5}, "mean=0.5 must be numbers in a tuple"),
        ({"input_size": (3, 0, 32)}, "input_size=(3, 0, 32) must be three whole numbers >= 1"),
        ({"input_size": (3, 32)}, "input_size=(3, 32) must be three whole numbers >= 1"),
        ({"input_size": (3, 32.5, 32)}, "must be three whole numbers >= 1"),
        ({"input_size": 32}, "input_size=32 must be numbers in a tuple"),
    ],
)
def test_a_module_that_says_nonsense_of_its_images_is_refused(changes, message):
    model = torch.nn.Sequential()
    model.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert preprocessing_of(model).image_size == (32, 32)
    model.pretrained_cfg |= changes
    with pytest.raises(ValueError, match=r"pretrained_cfg of this Sequential: ") as error:
        preprocessing_of(model)
    assert message in str(error.value)


def test_every_configuration_of_timm_can_be_read():
    from timm.models import _registry

    kinds = {
        tuple(getattr(config, key) for key in ("interpolation", "crop_mode", "crop_pct"))
        for config in _registry._model_pretrained_cfgs.values()
    }
    model = torch.nn.Sequential()
    for interpolation, crop_mode, crop_pct in kinds:
        model.pretrained_cfg = {
            **{"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3},
            **{"interpolation": interpolation, "crop_mode": crop_mode, "crop_pct": crop_pct},
        }
        assert preprocessing_of(model).interpolation == interpolation


def test_the_ways_of_resizing_are_those_of_the_data():
    assert (preprocessing.INTERPOLATIONS, preprocessing.CROP_MODES) == (
        choices.INTERPOLATIONS,
        choices.CROP_MODES,
    )
    assert preprocessing.MOST_CROP_PCT == choices.MOST_CROP_PCT
