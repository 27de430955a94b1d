"""Convolutions of a training are those that give the same bits each time."""

from __future__ import annotations

import pytest
import torch

import accuracy_booster as ab
from accuracy_booster.training.repeatable import repeatable_convolutions

cudnn = torch.backends.cudnn


def settings() -> tuple[bool, bool]:
    return cudnn.deterministic, cudnn.benchmark


def test_cudnn_is_told_and_its_settings_come_back(monkeypatch):
    monkeypatch.setattr(cudnn, "benchmark", True)
    before, seen = settings(), []

    def fails() -> None:
        with repeatable_convolutions(torch.device("cuda")):
            seen.append(settings())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert seen == [(True, False)]
    assert settings() == before


def test_on_the_cpu_nothing_changes():
    before = settings()
    with repeatable_convolutions(torch.device("cpu")):
        assert settings() == before


def test_a_training_runs_within_it(tmp_path, monkeypatch):
    from accuracy_booster.training import fitting

    devices = []

    def watched(device: torch.device):
        devices.append(device.type)
        return repeatable_convolutions(device)

    monkeypatch.setattr(fitting, "repeatable_convolutions", watched)
    ab.train("resnet8", epochs=1, image_size=8, device="cpu", output=tmp_path / "run")
    assert devices == ["cpu"]
