"""Data sets in COCO's format, and trainings on them that several files of tests look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.coco import write
from support.detectors import make_coco, options
from support.trainings import make_data

import accuracy_booster as ab
from accuracy_booster import detection
from accuracy_booster.training import TrainResult, run_to_end


@pytest.fixture
def make(
    tmp_path: Path, pixels: Callable[..., np.ndarray], png: Callable[..., bytes]
) -> Callable[..., Path]:
    """`make(train, val)`: a directory as COCO has it, with a file for each image."""
    return partial(write, tmp_path / "coco", pixels, png)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in COCO's format with coloured rectangles."""
    return make_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The result of a training of a detector, which was made in this process."""
    return detection.train(**options(data, tmp_path_factory.mktemp("trained") / "run"))


@pytest.fixture(scope="session")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classification of a boosted network with four stages."""
    folder = tmp_path_factory.mktemp("classified")
    images = make_data(folder / "images", train=4, test=2, size=(20, 20))
    given = {"block": "ab", "data": str(images), "image_size": 32, "epochs": 1, "batch_size": 6}
    more = {"preset": "cifar_resnet", "compile": "off", "device": "cpu"}
    ab.train("timm/test_resnet", output=str(folder / "run"), **given, **more)
    return folder / "run"


class _Captured(Exception):
    """Raised in place of the first step."""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """`start(data, **options)`: the trainer as it is before the first step."""

    def fit(trainer: Any, *given: Any, **more: Any) -> None:
        raise _Captured(trainer)

    def begin(data: Path, **more: Any) -> Any:
        number = len(list(tmp_path.glob("start*")))
        with monkeypatch.context() as patch:
            patch.setattr(run_to_end, "fit", fit)
            with pytest.raises(_Captured) as caught:
                detection.train(**options(data, tmp_path / f"start{number}", **more))
        return caught.value.args[0]

    return begin
