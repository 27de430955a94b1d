"""Weights from the cache of the Hugging Face hub, when the hub cannot be reached."""

from __future__ import annotations

import socket
import time
import urllib.request

import huggingface_hub.constants as hub
import pytest
import timm
import torch
from support.networks_of_ours import put_in_hub_cache

import accuracy_booster as ab
from accuracy_booster.models.hub_cache import is_reachable


def refuse(*_, **__):
    raise OSError("Network is unreachable")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No server can be reached, and the hub's cache is a new folder, which is returned."""
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("setting", [False, True])
@pytest.mark.parametrize("name", ["resnet50", "timm/resnet26"])
def test_without_a_network_timm_fails_at_once(name, setting, monkeypatch, no_network):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", setting)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"{name}.*network") as caught:
        ab.create_model(name, pretrained=True)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_the_cache_are_loaded_without_a_network(form, monkeypatch, no_network):
    """And the hub's switch, which the whole process would see, is not touched meanwhile."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    torch.manual_seed(1)
    stored = timm.create_model("test_resnet").state_dict()
    put_in_hub_cache(no_network, "timm/test_resnet.r160_in1k", stored, form)
    seen = []

    class Watched(timm.models.ResNet):
        def load_state_dict(self, *args, **options):
            seen.append(hub.HF_HUB_OFFLINE)
            return super().load_state_dict(*args, **options)

    monkeypatch.setattr(timm.models.resnet, "ResNet", Watched)
    model = ab.create_model("timm/test_resnet", pretrained=True)
    assert seen == [False]
    for key, value in model.state_dict().items():
        assert torch.equal(value, stored[key]), key


def test_an_address_that_refuses_is_not_reachable(no_network, monkeypatch):
    assert not is_reachable("https://huggingface.co")
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "proxy"})
    assert is_reachable("https://huggingface.co")  # the proxy knows
