"""Settings: read back from YAML, and refused where they do not fit."""

import pytest

import accuracy_booster as ab
from accuracy_booster.training import resolve
from accuracy_booster.training.train_config import TrainConfig


def test_config_round_trip_and_refusals():
    c = resolve("wrn16_4", data="cifar10", image_size=40, mean=[0.1, 0.2, 0.3])
    assert TrainConfig.from_yaml(c.to_yaml()) == c
    for wrong in (
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"validation": 1.0},
        {"precision": "fp8"},
        {"schedule": "linear"},
        {"milestones": (0.5, 1.5)},
        {"nesterov": True, "momentum": 0.0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            resolve("resnet20", **wrong)
    with pytest.raises(ValueError, match="nearest: epochs"):
        ab.train("resnet20", epoch=3)
    with pytest.raises(ValueError, match="nearest: cifar_wrn"):
        ab.train("resnet20", preset="cifar_wnr")


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"batch_size": 4, "accumulate": 4}, False),
        ({"batch_size": 8, "accumulate": 3}, False),
        ({"batch_size": 8, "accumulate": 4}, True),
        ({"batch_size": 4, "accumulate": 1}, True),
    ],
)
def test_each_part_of_a_batch_has_two_images(given, fits):
    if fits:
        resolve("resnet8", **given)
        return
    size = given["batch_size"]
    with pytest.raises(ValueError, match=f"accumulate=.*divisor of batch_size={size}.*{size // 2}"):
        resolve("resnet8", **given)


def test_one_start_or_the_other(weights_file, tmp_path, folder):
    with pytest.raises(ValueError, match=r"weights=.*without pretrained"):
        ab.train("resnet18", pretrained=True, weights=str(weights_file[1]))
    with pytest.raises(ValueError, match="leave out weights"):
        ab.train(resume=tmp_path / "run", weights=str(weights_file[1]))
