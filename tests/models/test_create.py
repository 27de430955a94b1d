"""`create_model`: a network is named by a table, and is not built where it is too large."""

from __future__ import annotations

import re

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.cli import main

REFUSED = ["wrn16_999999", "wrn16_100", "wrn999994_1", "wrn2002_1", f"wrn16_{'9' * 5000}"]


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: name[:14])
@pytest.mark.parametrize("command", ["train", "plan", "complexity", "bench"])
def test_a_network_beyond_every_machine_is_refused_before_it_is_built(
    command, name, tmp_path, monkeypatch, capsys
):
    def refuse(*_, **__):
        raise AssertionError("a layer was built")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn, "Conv2d", refuse)
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
        with pytest.raises(ValueError, match="unknown model"):
            ab.create_model(name.format(tmp_path), pretrained=pretrained)
