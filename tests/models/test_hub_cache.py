"""Weights from the cache of the Hugging Face hub, when the hub cannot be reached."""

from __future__ import annotations

import time

import huggingface_hub.constants
import pytest

import accuracy_booster as ab
from accuracy_booster.models import libraries


@pytest.mark.parametrize("setting", [False, True])
@pytest.mark.parametrize("name", ["resnet50", "timm/resnet26"])
def test_without_a_network_timm_fails_at_once(name, setting, monkeypatch, tmp_path):
    constants = huggingface_hub.constants
    monkeypatch.setattr(libraries, "_reachable", lambda address: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", setting)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"{name}.*network") as caught:
        ab.create_model(name, pretrained=True)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE is setting


def test_an_address_that_refuses_is_not_reachable(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError

    monkeypatch.setattr(libraries.urllib.request, "getproxies", dict)
    monkeypatch.setattr(libraries.socket, "create_connection", refuse)
    assert not libraries._reachable("https://huggingface.co")
    monkeypatch.setattr(libraries.urllib.request, "getproxies", lambda: {"https": "proxy"})
    assert libraries._reachable("https://huggingface.co")  # the proxy knows
