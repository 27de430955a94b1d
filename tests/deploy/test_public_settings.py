"""The settings in a model card: none of the machine, and a command that gives them again."""

import contextlib
import io
import shlex

import pytest

from accuracy_booster.cli import main
from accuracy_booster.deploy.public_settings import PRIVATE, command, public_settings
from accuracy_booster.training import resolve
from accuracy_booster.training.identity import differences
from accuracy_booster.training.train_config import TrainConfig

FOLDER = "/home/somebody/it's | ünï"


def read_again(config):
    """The configuration that the command line in a card stands for."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*shlex.split(command(config))[1:], "--print_config"]) == 0
    return TrainConfig.from_yaml(out.getvalue())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model": "resnet20", "data": "cifar10", "block": "none", "seed": 7, "epochs": 3},
        {"block": "gap | dense | sigmoid", "where": "/layer[12].*bn2$/", "skip": "layer1,*.x"},
        {"mean": (-0.1, 0.2, 0.3), "std": (1.0, 0.5, 0.25), "in_chans": 3, "image_size": (32, 48)},
        {"preset": "finetune", "norm_weight_decay": None, "nesterov": True, "channels_last": False},
        {"preset": "imagenet_resnet", "milestones": (0.3, 0.6), "validation": 0.2, "keep": "best"},
        {"init": "identity", "auto_augment": "rand-m9-mstd0.5", "crop_mode": "border"},
    ],
)
def test_the_command_gives_the_same_settings(given):
    config = resolve(**{"model": "resnet8", "data": "digits", "epochs": 1, **given})
    assert differences(read_again(config), config, *PRIVATE) == ""


def test_no_place_of_the_machine_is_told():
    weights = "/home/somebody/secret/weights.pth"
    places = {"output": "/home/somebody/run", "data_dir": "/home/somebody/d", "data": FOLDER}
    config = resolve("resnet8", weights=weights, **places)
    told = command(config) + str(public_settings(config))
    assert "somebody" not in told
    assert "secret" not in told
    assert differences(read_again(config), config, *PRIVATE, "data", "weights") == ""
    assert shlex.split(command(config))[4] == "it's | ünï"


def test_a_file_of_your_own_code_is_named_without_its_folders():
    config = TrainConfig("/home/somebody/nets.py:small", data="digits")
    assert public_settings(config)["model"] == "nets.py:small"
    assert command(config).startswith("accuracy-booster train YOUR_FILE.py:FUNCTION --data digits")
