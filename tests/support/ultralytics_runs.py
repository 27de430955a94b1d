"""Data sets of a few drawn images, and trainings of ultralytics on them without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from support.repository import ROOT

SIZE = 64
COLOURS = ((220, 60, 50), (60, 200, 80))
NAMES = {0: "red", 1: "green"}
KEYPOINTS = [1, 3]


class Stopped(Exception):
    """What ends a training at the point that a test asks for."""


def settings(**changed: Any) -> dict[str, Any]:
    """The arguments of `model.train` for two epochs of a few images, without pictures."""
    quick = {"imgsz": SIZE, "epochs": 2, "batch": 4, "workers": 0, "device": "cpu", "seed": 0}
    quiet = {"plots": False, "verbose": False, "exist_ok": True}
    plain = {"mosaic": 0.0, "close_mosaic": 0, "nbs": 4, "warmup_epochs": 0}
    return {**quick, **quiet, **plain, "optimizer": "SGD", "lr0": 0.01, **changed}


def make_data(folder: Path, task: str, images: int = 4) -> str:
    """Rectangles of two colours, labelled for a task; returns what `data=` takes."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(images):
            picture = Image.new("RGB", (SIZE, SIZE), (90, 90, 90))
            colour = number % 2
            x, y = random.integers(4, 20, 2)
            w, h = random.integers(24, 36, 2)
            ImageDraw.Draw(picture).rectangle((x, y, x + w, y + h), fill=COLOURS[colour])
            file = folder / "images" / split / f"{number}.png"
            if task == "classify":
                file = folder / split / NAMES[colour] / f"{number}.png"
            else:
                words = [colour, *_label(task, *(np.array([x, y, w, h]) / SIZE))]
                text = folder / "labels" / split / f"{number}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text(" ".join(f"{word:g}" for word in words))
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
    if task == "classify":
        return str(folder)
    places = {"path": str(folder), "train": "images/train", "val": "images/val"}
    keypoints = {"kpt_shape": KEYPOINTS} if task == "pose" else {}
    file = folder / "data.yaml"
    file.write_text(json.dumps({**places, **keypoints, "names": NAMES}))
    return str(file)


def _label(task: str, x: float, y: float, w: float, h: float) -> list[float]:
    box = [x + w / 2, y + h / 2, w, h]
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"detect": box, "segment": corners, "obb": corners, "pose": [*box, *box[:2], 2]}[task]


def make_checkpoint(file: Path, name: str) -> str:
    """A checkpoint as people download it: two classes, statistics of images, and no gates."""
    from ultralytics import RTDETR, YOLO

    model = (RTDETR if "rtdetr" in name else YOLO)(f"{name}.yaml")
    torch.manual_seed(0)
    few = {"nc": len(NAMES)} | ({"kpt_shape": KEYPOINTS} if "pose" in name else {})
    network = type(model.model)({**model.model.yaml, **few}, verbose=False)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
    with torch.no_grad():
        network.train()(images())
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.args, network.task, network.names = model.model.args, model.task, dict(NAMES)
    model.model = network
    model.save(file)
    return str(file)


def make_yolo(folder: Path) -> None:
    """The files that ultralytics' users name: yolo11n.pt and coco8.yaml."""
    make_checkpoint(folder / "yolo11n.pt", "yolo11n")
    shutil.copy(make_data(folder / "coco8", "detect"), folder / "coco8.yaml")


@contextmanager
def stopped_at(model: Any, event: str) -> Iterator[dict[str, Any]]:
    """Train a model up to one of ultralytics' events; {"trainer": the trainer at that point}."""
    seen: dict[str, Any] = {}

    def stop(trainer: Any) -> None:
        seen["trainer"] = trainer
        raise Stopped

    model.add_callback(event, stop)
    try:
        yield seen
    except Stopped:
        pass
    finally:
        model.callbacks[event].remove(stop)


def images() -> torch.Tensor:
    """Two images to compare networks with."""
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def output(network: torch.nn.Module) -> torch.Tensor:
    """What a network predicts in eval mode for `images()`, computed on the CPU."""
    device = next(network.parameters()).device
    with torch.no_grad():
        predicted = network.float().eval().cpu()(images())
    network.to(device)
    while isinstance(predicted, (tuple, list)):
        predicted = predicted[0]
    return predicted.clone()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def in_new_process(code: str, folder: Path, *words: str, **variables: str) -> str:
    """What a new process prints that runs this code; `support` can be imported in it."""
    path = f"{ROOT}:{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
