"""Data sets of a few drawn images, and trainings of ultralytics on them without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

SIZE = 64
SMALL = {"yolov8n": "yolov8n", "yolo11n": "yolo11n", "yolo26n": "yolo26n"}
TASKS = {"detect": "", "segment": "-seg", "classify": "-cls", "pose": "-pose", "obb": "-obb"}
COLOURS = ((220, 60, 50), (60, 200, 80))
ROOT = Path(__file__).parents[2]


def offline(folder: Path) -> dict[str, str]:
    """The variables that keep ultralytics from the network, from pip and from the home folder."""
    return {
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(folder),
        "MPLCONFIGDIR": str(folder),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def settings(**changed: object) -> dict[str, object]:
    """The arguments of `model.train` for two epochs of a few images, without pictures."""
    quick = {"imgsz": SIZE, "epochs": 2, "batch": 4, "workers": 0, "device": "cpu", "seed": 0}
    quiet = {"plots": False, "verbose": False, "optimizer": "SGD", "lr0": 0.05, "warmup_epochs": 0}
    plain = {"mosaic": 0.0, "close_mosaic": 0, "nbs": 4}
    return {**quick, **quiet, **plain, **changed}


def make_data(folder: Path, task: str, images: int = 4) -> str:
    """Rectangles of two colours, labelled for a task; returns what `data=` takes."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(images):
            image = Image.new("RGB", (SIZE, SIZE), (90, 90, 90))
            colour = number % 2
            x, y = random.integers(4, 20, 2)
            w, h = random.integers(24, 36, 2)
            ImageDraw.Draw(image).rectangle((x, y, x + w, y + h), fill=COLOURS[colour])
            if task == "classify":
                file = folder / split / f"class{colour}" / f"{number}.png"
            else:
                file = folder / "images" / split / f"{number}.png"
                words = [colour, *_label(task, *(np.array([x, y, w, h]) / SIZE))]
                text = folder / "labels" / split / f"{number}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text(" ".join(f"{word:g}" for word in words))
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
    if task == "classify":
        return str(folder)
    keypoints = {"kpt_shape": [1, 3]} if task == "pose" else {}
    content = {"path": str(folder), "train": "images/train", "val": "images/val", **keypoints}
    (folder / "data.yaml").write_text(json.dumps({**content, "names": {0: "red", 1: "green"}}))
    return str(folder / "data.yaml")


def _label(task: str, x: float, y: float, w: float, h: float) -> list[float]:
    box = [x + w / 2, y + h / 2, w, h]
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"detect": box, "segment": corners, "obb": corners, "pose": [*box, *box[:2], 2]}[task]


def image() -> torch.Tensor:
    """A batch of two images to compare networks with."""
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def output(network: torch.nn.Module) -> torch.Tensor:
    """The prediction of a network in eval mode, [N, ...], for `image()`."""
    network = network.float().eval()
    with torch.no_grad():
        predicted = network(image())
    while isinstance(predicted, (tuple, list)):
        predicted = predicted[0]
    return predicted


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def in_new_process(code: str, folder: Path) -> str:
    """What a new process prints that runs this code."""
    env = {**os.environ, **offline(folder), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
