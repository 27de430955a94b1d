"""What gates cost in ultralytics: parameters, a training step, and prediction after its `fuse()`.

python benchmarks/ultralytics_cost.py [NETWORK ...] [--block B] [--imgsz S] [--rounds R]

In each round the plain network and the boosted one take turns. A line gives the median of the
rounds' ratios, and the quarters around it. Times are those of the processor, in one thread.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="ultralytics_"))

import torch
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.utils import LOGGER

import accuracy_booster as ab


def training_step(network: Any, images: torch.Tensor) -> Callable[[], None]:
    """One step of SGD on two boxes per image."""
    count = len(images)
    batch = {
        "img": images,
        "cls": torch.zeros(2 * count, 1),
        "bboxes": torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.6, 0.6, 0.5, 0.3]]).repeat(count, 1),
        "batch_idx": torch.arange(count).repeat_interleave(2).float(),
    }
    network.args = get_cfg()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        network.train()(batch)[0].sum().backward()
        optimizer.step()

    return step


def prediction(network: Any, image: torch.Tensor) -> Callable[[], None]:
    """A pass of the fused network; the first one puts the gates in their places."""
    fused = copy.deepcopy(network).eval().fuse(verbose=False)

    @torch.inference_mode()
    def predict() -> None:
        fused(image)

    predict()
    return predict


def seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def ratio(plain: Callable[[], None], boosted: Callable[[], None], rounds: int) -> str:
    """The median of the ratios of `rounds` rounds, after one that is not counted."""
    found = []
    for number in range(rounds + 1):
        order = (plain, boosted) if number % 2 else (boosted, plain)
        times = {run: seconds(run) for run in order}
        found.append(times[boosted] / times[plain])
    low, middle, high = statistics.quantiles(found[1:], n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("networks", nargs="*", default=["yolov8n", "yolo11n", "yolo26n"])
    parser.add_argument("--block", default="ab")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=21)
    given = parser.parse_args()
    LOGGER.setLevel("ERROR")
    torch.set_num_threads(1)
    for name in given.networks:
        plain = YOLO(f"{name}.yaml").model
        boosted = ab.boost(copy.deepcopy(plain), given.block, init="identity")
        added = sum(p.numel() for p in ab.added_parameters(boosted))
        share = added / sum(p.numel() for p in plain.parameters())
        images = torch.rand(given.batch, 3, given.imgsz, given.imgsz)
        predict = ratio(
            prediction(plain, images[:1]), prediction(boosted, images[:1]), given.rounds
        )
        step = ratio(training_step(plain, images), training_step(boosted, images), given.rounds)
        sites = len(ab.gate_record(boosted)["sites"])
        print(f"{name}: {sites} gates, {added} parameters ({share:.2%})", flush=True)
        print(f"  a training step takes {step} of the time, a prediction {predict}", flush=True)


if __name__ == "__main__":
    main()
