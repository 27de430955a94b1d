"""Our training step with its loader against the plain loop that most repositories ship.

python benchmarks/training.py [--model resnet56] [--block none] [--rounds 7]
                              [--device cuda --precision bf16 --workers 0 4 8]

The plain loop: eager, contiguous, torchvision's transforms on PIL images in a DataLoader with 0, 1
and 2 workers, of which the best counts. On a GPU it is channels-last, with pinned memory. Ours:
`Trainer.train_step` with its own loader.
The plain loops and ours run in a process each, since ours tells the C library how to keep memory;
they take turns, a few steps each; medians of the time per step. The images are
random: their content does not change the time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import accuracy_booster as ab
from accuracy_booster.data import Data
from accuracy_booster.data.augmentation import train_batch_transform
from accuracy_booster.data.batches import Loader
from accuracy_booster.data.images import TensorImages
from accuracy_booster.data.transforms import unchanged
from accuracy_booster.training import compiling, trainer
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.peak_memory import peak_memory
from accuracy_booster.training.presets import resolve

CLASSES, COUNT = 100, 5000
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class Pictures(Dataset):
    """As torchvision's CIFAR: an array, an image of PIL at each access."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor):
        self.pixels = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def forever(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    while True:
        yield from make()


def plain(given: argparse.Namespace, pictures: Pictures, workers: int) -> Callable:
    device, gpu = torch.device(given.device), given.device == "cuda"
    network = ab.create_model(given.model, block=given.block, num_classes=CLASSES).train()
    network = network.to(device)
    if gpu:
        network = network.to(memory_format=torch.channels_last)
    mixed = given.precision == "bf16"
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        pictures,
        given.batch,
        shuffle=True,
        drop_last=True,
        pin_memory=gpu,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    batches = forever(lambda: iter(loader))
    next(batches)

    def step() -> float:
        start = time.perf_counter()
        images, labels = next(batches)
        waited = time.perf_counter() - start
        if gpu:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
        with torch.autocast(given.device, dtype=torch.bfloat16, enabled=mixed):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return waited

    return step


def ours(given: argparse.Namespace, images: TensorImages, compile: bool) -> Callable:
    config = resolve(
        given.model, block=given.block, data="cifar100", batch_size=given.batch, num_classes=CLASSES
    )
    how = {"device": given.device, "precision": given.precision}
    config = config.change({"in_chans": 3, "image_size": (32, 32), **how})
    crops = train_batch_transform("crop_flip", (32, 32))
    loader = Loader(images, unchanged, given.batch, shuffled=True, batch_transform=crops)
    data = Data(
        *("random", tuple(map(str, range(CLASSES))), 3, (32, 32), MEAN, STD, "crop_flip"),
        *(None, None, None, True, [], {}, {}, {"train": loader}, lambda seed: {}),
    )
    one = trainer.Trainer(Classification(config, data))
    one.initialise()
    step_to_compile = one.step_to_compile()
    assert step_to_compile is not None
    fused = compiling.fuses(step_to_compile, compile)
    one.step.forward = compiling.prepare_forward(step_to_compile, compile, fused)
    epochs = iter(range(10**9))
    batches = forever(lambda: loader.batches(next(epochs), device=one.device))

    def step() -> float:
        start = time.perf_counter()
        found = next(batches)
        waited = time.perf_counter() - start
        one.train_step(found)
        return waited

    return step


def child(connection: Any, kind: str, given: argparse.Namespace) -> None:
    """A process with the variants of one kind; it times one at each word it gets."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (COUNT,))
    steps: dict[str, Callable] = {}
    if kind == "plain":
        for workers in given.workers:
            steps[f"plain, {workers} workers"] = plain(given, Pictures(pixels, labels), workers)
    else:
        for name, compile in (("ours, eager", False), ("ours, compiled", True)):
            steps[name] = ours(given, TensorImages(pixels, labels), compile)
    first = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        first[name] = time.perf_counter() - start
        step()
    connection.send(first)
    while name := connection.recv():
        if name.startswith("peak "):
            connection.send(
                peak_memory(steps[name.removeprefix("peak ")], torch.device(given.device))
            )
            continue
        times = []
        for _ in range(given.steps):
            start = time.perf_counter()
            waited = steps[name]()
            if given.device == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start, waited))
        connection.send(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--block", default="none")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="of each variant in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="of plain loops")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    first: dict[str, float] = {}
    asked: dict[str, Any] = {}
    for kind in ("plain", "ours"):
        here, there = context.Pipe()
        context.Process(target=child, args=(there, kind, given), daemon=False).start()
        found = here.recv()
        first |= found
        asked |= dict.fromkeys(found, here)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for _ in range(given.rounds):
        for name, connection in asked.items():
            connection.send(name)
            times[name] += connection.recv()
    peaks = {}
    for name, connection in asked.items():
        connection.send(f"peak {name}")
        peaks[name] = connection.recv()
    for connection in set(asked.values()):
        connection.send("")
    seconds = {name: median(s for s, _ in values) for name, values in times.items()}
    best = min(s for n, s in seconds.items() if n.startswith("plain"))
    rows = {
        name: {
            "seconds per step": round(s, 4),
            "images per second": round(given.batch / s, 1),
            "times the best plain loop": round(best / s, 3),
            "loader's share of a step": round(
                sum(w for _, w in times[name]) / sum(t for t, _ in times[name]), 4
            ),
            "peak tensor memory of a step, MB": round(peaks[name] / 1e6, 1),
            "first step, s": round(first[name], 1),
        }
        for name, s in seconds.items()
    }
    machine = torch.cuda.get_device_name() if given.device == "cuda" else platform.machine()
    result = {
        **{"model": given.model, "block": given.block, "batch": given.batch},
        **{"threads": given.threads, "machine": machine, "torch": torch.__version__},
        **{"precision": given.precision},
        "rows": rows,
    }
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in rows.items():
        print(name, row)


if __name__ == "__main__":
    main()
