"""What the data and the first weights decide, and starts that fail."""

from __future__ import annotations

import json

import pytest
import torch
from support.detectors import NO_DEAD_NORMS, make_coco, options
from support.trainings import Plain, train_digits

from accuracy_booster import detection
from accuracy_booster.detection.resolving import resolve
from accuracy_booster.models import create_model

# N batch, C channels, H W space


pytestmark = NO_DEAD_NORMS


def test_starts_that_fail_are_one_line(trained, classified, data, tmp_path):
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 no weights")
    torch.save(create_model("resnet8").state_dict(), tmp_path / "resnet8.pth")
    cases = [
        ({"weights": str(tmp_path / "damaged.pth")}, "damaged.pth"),
        ({"weights": str(tmp_path / "nowhere.pth")}, "nowhere.pth"),
        ({"backbone": "resnet14", "weights": str(tmp_path / "resnet8.pth")}, "resnet8.pth"),
        ({"weights": str(trained.output), "block": "se"}, "of another detector"),
        ({"weights": str(trained.output), "head": "fpn"}, "of another detector"),
        (
            {"backbone": str(classified), "block": "se", "anchor_sizes": None},
            "give the block that they are of",
        ),
        ({"backbone": str(trained.output)}, "run of 'detection', not of classification"),
        ({"backbone": str(classified), "weights": "w.pth"}, "leave weights out"),
        ({"backbone": None}, "name a backbone"),
        ({"backbone": "resnet8", "block": "dia"}, "dia"),
        ({"anchor_sizes": (8, 16), "head": "fpn"}, "anchor_sizes"),
        ({"precision": "fp16"}, "needs a GPU"),
        ({"norms": "normal", "batch_size": 1}, "batch_size=1 must be >= 2"),
        ({"batch_size": 2, "accumulate": 2, "norms": "normal"}, "accumulate=2 must be"),
        ({"num_classes": 5}, "num_classes=5, but"),
        ({"trainable_layer": 3}, "trainable_layers"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            detection.train(**options(data, tmp_path / "run", **change))
        assert "\n" not in str(caught.value), change
        assert not (tmp_path / "run" / "config.yaml").exists(), change


def test_missing_images_within_and_beyond_what_is_allowed(tmp_path):
    data = make_coco(tmp_path / "data")
    for number in (1, 4):
        (data / "train2017" / f"{number:03}.png").unlink()
    with pytest.raises(ValueError, match=r"2 image files of .* bad_images=1, the first .*001\.png"):
        detection.train(**options(data, tmp_path / "run", bad_images=1))
    assert not (tmp_path / "run").exists()
    result = detection.train(**options(data, tmp_path / "run", bad_images=2, epochs=1))
    told = json.loads((result.output / "run.json").read_text())["unreadable"]
    assert 1 <= len(told) <= 2
    assert "001.png" in told[0] or "004.png" in told[0]


def test_the_rate_goes_with_the_batch_that_there_is(data, tmp_path, capsys):
    given = {**options(data, tmp_path / "run"), "epochs": 1, "batch_size": 400}
    given.pop("lr", None)
    config = detection.train(**given).config
    assert config.batch_size < 400
    assert config.lr == pytest.approx(0.00125 * config.batch_size)
    assert f"batch_size={config.batch_size}, not 400" in capsys.readouterr().err
    own = detection.train(**{**given, "output": str(tmp_path / "own"), "lr": 0.001}).config
    assert own.lr == 0.001


def test_a_run_of_other_images_than_a_detectors_is_told(tmp_path):
    place = tmp_path / "grey"
    train_digits(place)
    for given in ({"backbone": str(place)}, {"backbone": "resnet8", "weights": str(place)}):
        with pytest.raises(ValueError, match="takes images of 1 channel, and a detector's images"):
            resolve(given.pop("backbone"), **given)


def test_a_run_of_a_network_of_the_callers_own_is_told(tmp_path):
    place = tmp_path / "own"
    train_digits(place, model=Plain(), block="none")
    with pytest.raises(ValueError, match=r"of your own code \(own/Plain\)"):
        resolve(str(place))


def test_a_run_with_gates_at_other_sites_is_told(tmp_path):
    place = str(tmp_path / "conv")
    train_digits(place, in_chans=3, where="conv", skip="layer1")
    with pytest.raises(ValueError, match=r"gates at where='conv', skip='layer1', and detect"):
        resolve(None, weights=place)
    network = detection.faster_rcnn(place, num_classes=3)
    assert "backbone.body.bn1.recalibrate" in dict(network.named_modules())
    assert "backbone.body.layer1.0.bn2.recalibrate" not in dict(network.named_modules())


def test_a_backbone_of_the_callers_own_is_told(tmp_path):
    (tmp_path / "nets.py").write_text("from timm.models import test_resnet as make")
    with pytest.raises(ValueError, match="detect train makes its network by name"):
        detection.train(f"{tmp_path / 'nets.py'}:make", data=str(tmp_path))
