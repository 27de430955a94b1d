"""The name `accuracy_booster` in timm's registry: networks that timm does not have."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from timm.models import save_for_hf

import accuracy_booster as ab
from accuracy_booster.integrations.timm import register, why_too_old
from accuracy_booster.integrations.timm_networks import NAME
from accuracy_booster.surgery import attached

pytestmark = [
    pytest.mark.skipif(why_too_old() is not None, reason="needs timm 1.0.31 or newer"),
    pytest.mark.filterwarnings("ignore:the batch norm of", "ignore:The default weight init"),
]


@pytest.fixture(scope="module", autouse=True)
def _names():
    register()


def made(**options):
    """A network in eval mode whose weights are not those of any start."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.1)
    return model.eval()


NETWORKS = [
    {"network": "resnet8", "block": "ab", "in_chans": 1, "num_classes": 7},
    {"network": "resnet8", "block": "gap | dense | sigmoid", "init": "paper", "num_classes": 7},
    {"network": "torchvision/resnet18", "block": "se", "where": "conv", "skip": "layer4"},
    {"network": "torchvision/googlenet", "num_classes": 7},
]


@pytest.mark.parametrize("options", NETWORKS)
def test_what_timm_saves_comes_back(options, tmp_path):
    model = made(**options)
    save_for_hf(model, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == NAME
    assert config["model_args"]["network"] == options["network"]
    x = torch.randn(2, options.get("in_chans", 3), 64, 64)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert list(attached(loaded)) == list(attached(model))


def test_weights_fit_other_classes_and_channels(tmp_path):
    model = made(**NETWORKS[0])
    save_for_hf(model, tmp_path, safe_serialization=True)
    other = timm.create_model(
        f"local-dir:{tmp_path}", pretrained=True, num_classes=3, in_chans=3
    ).eval()
    state = other.state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith("fc."):
            assert len(state[name]) == 3
        elif name != "conv1.weight":
            assert torch.equal(tensor, state[name]), name
    assert other(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    without = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    assert without(torch.zeros(2, 1, 32, 32)).shape == (2, 64)


@pytest.mark.parametrize("more", [{"block": "se"}, {"skip": "layer1"}, {"block": "none"}])
def test_weights_with_other_gates_are_refused(more, tmp_path):
    save_for_hf(made(**NETWORKS[0]), tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match=r"with other gates.*with which it was trained"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3, **more)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "resnet21"}, "unknown model 'resnet21'"),
        ({"network": "own.py:network"}, "of your own"),
        ({"block": "nonsense"}, "unknown block 'nonsense'"),
        ({"features_only": True}, "unexpected keyword argument"),
    ],
)
def test_what_cannot_be_made_is_one_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        timm.create_model(NAME, **options)
    assert "\n" not in str(error.value)


def test_the_name_is_of_timm_and_not_of_ours():
    assert timm.is_model(NAME)
    assert not timm.is_model(f"ab_{NAME}")
    assert f"timm/{NAME}" not in ab.list_models("timm/a*")
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model(NAME, network="resnet8", pretrained=True)
