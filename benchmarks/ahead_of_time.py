"""The time of networks that are compiled ahead of time, with our convolution kernel and without.

    python benchmarks/ahead_of_time.py --network resnet50 --side 224 --batch 1

All files of a network are called in turn, by one thread. What is measured is the thread's time on
the processor, so other programs change it little. Each ratio is the median over the rounds.
"""

# N images, C channels, H W space

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

import accuracy_booster as ab
from accuracy_booster.deploy.ahead_of_time import converted
from accuracy_booster.exported import About, open_file

ANY = ({0: torch.export.Dim("batch", min=1)},)
FILES = {  # block, kernel of `ab.fold`, and the numbers of images that the file takes
    "no block": ("none", "off", ANY),
    "no block, a fixed number of images": ("none", "off", None),
    "AB": ("ab", "off", ANY),
    "AB, a fixed number of images": ("ab", "off", None),
    "AB with our kernel": ("ab", "auto", ANY),
}


def files(network: str, images: torch.Tensor, folder: Path) -> dict[str, Callable]:
    """What runs each file of FILES."""
    found = {}
    for place, (name, (block, kernel, shapes)) in enumerate(FILES.items()):
        torch.manual_seed(0)
        model = ab.create_model(network, num_classes=10, block=block).eval()
        folded = ab.fold(model, example=images, kernel=kernel)
        example = images if shapes is None else torch.zeros(2, *images.shape[1:])
        about = About(network, block, (), tuple(images.shape[1:]), (0,) * 3, (1,) * 3)
        file = folder / f"{place}.aoti.pt2"
        converted(folded, example, shapes)(file, about)
        found[name] = open_file(file)
    return found


def measure(calls: dict[str, Callable], images: torch.Tensor, seconds: float) -> dict[str, list]:
    """The times of each call, in ms."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    batch = images.numpy()
    for call in calls.values():
        call(batch)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            start = time.thread_time()
            call(batch)
            times[name].append(1000 * (time.thread_time() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randn(given.batch, 3, given.side, given.side)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(files(given.network, images, Path(folder)), images, given.seconds)
    base = times["no block"]
    for name, row in times.items():
        ratio = median(a / b for a, b in zip(row, base, strict=True))
        print(f"{name:36s} {median(row):8.3f} ms {ratio:6.3f} of {len(row)} rounds")


if __name__ == "__main__":
    main()
