"""Networks of timm and torchvision, with weights that lie on this disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from support.networks_of_ours import (
    large_images,
    on_meta,
    randomise,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


def test_options_reach_timm():
    assert on_meta("resnet18", drop_rate=0.25).drop_rate == 0.25
    assert on_meta("timm/resnet18", drop_rate=0.25).drop_rate == 0.25


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[nn.Module, Path]:
    """torchvision's ResNet-18 with weights of its own, and the file that holds them."""
    model = randomise(torchvision.models.resnet18()).float().eval()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(model.state_dict(), path)
    return model, path


def load(name: str, trained: tuple[nn.Module, Path], monkeypatch, tmp_path, **options):
    """A pretrained network whose library finds the weights on this disk."""
    if name.startswith("torchvision/"):
        url = torchvision.models.ResNet18_Weights.DEFAULT.url
        place = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
        place.parent.mkdir(parents=True)
        place.write_bytes(trained[1].read_bytes())
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(torch.hub, "_hub_dir", None)
    else:
        options["pretrained_cfg_overlay"] = {"file": str(trained[1])}
    return ab.create_model(name, pretrained=True, **options).eval()


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "torchvision/resnet18"])
@pytest.mark.parametrize("boosted", [{}, {"block": "ab", "init": "identity"}])
def test_pretrained_weights_are_loaded(name, boosted, trained, monkeypatch, tmp_path):
    model = load(name, trained, monkeypatch, tmp_path, **boosted)
    assert len(attached(model)) == (8 if boosted else 0)
    x = large_images(side=64).float()
    with torch.no_grad():
        torch.testing.assert_close(model(x), trained[0](x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_pretrained_weights_with_another_head(name, trained, monkeypatch, tmp_path):
    model = load(name, trained, monkeypatch, tmp_path, num_classes=4)
    assert model.fc.weight.shape == (4, 512)
    assert torch.equal(model.layer4[1].conv2.weight, trained[0].layer4[1].conv2.weight)


def test_without_a_network_torchvision_fails_in_one_line(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    with pytest.raises(ValueError, match=r"torchvision/resnet18.*unreachable") as caught:
        ab.create_model("torchvision/resnet18", pretrained=True)
    assert "\n" not in str(caught.value)
