"""Names of networks, and every registered network forward and backward."""

# N batch, C channels, H W space

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from support.networks_of_ours import (
    macs,
    on_meta,
    parameters,
)

import accuracy_booster as ab
from accuracy_booster.cli import main


@pytest.mark.parametrize(
    ("name", "classes", "count", "multiply_adds"),
    [
        ("resnet56", 100, 858_868, (125.49e6, 0.01e6)),
        ("resnet164", 100, 1_726_388, (247.670e6, 0.001e6)),
        ("resnet164v1", 100, 1_734_452, (244.524e6, 0.001e6)),
        ("wrn22_10", 100, 26_855_604, (3.828e9, 0.001e9)),
    ],
)
def test_counts_of_the_paper(name, classes, count, multiply_adds):
    """`shared/paper/counting.md`: to within a unit of the last printed digit."""
    model = on_meta(name, num_classes=classes)
    assert parameters(model) == count
    printed, unit = multiply_adds
    assert macs(model) == pytest.approx(printed, abs=unit)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet57", "resnet56"),
        ("ResNet56", "resnet56"),
        ("wrn22-10", "wrn22_10"),
        ("x", "wrn16_4"),
    ],
)
def test_unknown_names_give_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.*{nearest}") as caught:
        ab.create_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", [None, "ab"])
@pytest.mark.parametrize("name", [n for n in ab.list_models() if not re.match("wrn2._10", n)])
def test_forward_and_backward_reach_every_parameter(name, recipe):
    torch.manual_seed(0)
    model = ab.create_model(name, block=recipe, num_classes=3)
    x = torch.randn(4, 3, 8, 8)
    F.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        dead = name == "resnet164v1" and parameter_name.endswith("conv3.bias")
        # (without gates, every way from those biases leads through a norm that removes the mean)
        assert dead or parameter.grad.any(), parameter_name


REFUSED = ["wrn16_999999", "wrn16_100", "wrn999994_1", "wrn2002_1", f"wrn16_{'9' * 5000}"]


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: name[:14])
@pytest.mark.parametrize("command", ["train", "plan", "complexity", "bench"])
def test_a_network_beyond_every_machine_is_refused_before_it_is_built(
    command, name, tmp_path, monkeypatch, capsys
):
    def refuse(*_, **__):
        raise AssertionError("a layer was built")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Conv2d, "__init__", refuse)  # it stays a class
    assert main([command, "--model", name]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(r"must be <= 2,000|may have up to 250,000,000|unknown model", err)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        *("timm/hf-hub:someone/network", "timm/hf_hub:someone/network", "timm/local-dir:{}"),
        *("hf-hub:someone/network", "torchvision/../{}", "torchvision/os.system", "timm/{}"),
        *("{}", "./network.py", "builtins.eval", "torchvision/get_model", "timm/__init__"),
    ],
)
def test_a_network_is_named_by_a_table_and_by_nothing_else(name, tmp_path, monkeypatch):
    """No repository, directory or module is opened for a name."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    for pretrained in (False, True):
        with pytest.raises(ValueError, match=r"unknown model|is a file; write"):
            ab.create_model(name.format(tmp_path), pretrained=pretrained)
