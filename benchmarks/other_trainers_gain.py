"""Do gates help in ultralytics' own trainer? From one start, with gates and without, 3 seeds.

python benchmarks/other_trainers_gain.py --data-dir DIR [--tasks detect,classify]
       [--blocks ab,se] [--seeds 3] [--jobs 1] [--device cpu] [--work DIR]
       [--output benchmarks/other_trainers_gain.json]

DIR holds `coco_tiny` (COCO's format) and `cifar10` (Parquet). For each task a network is trained
without gates first: that is the start of all others. From it, ultralytics trains on with each
block, as the identity at first, and without one; the same schedule and the same seeds. The number
of a training is that of its last epoch on the validation images, not of its best.

Each training is a process of its own, and `--jobs` of them run at a time. A training that has ended
is not made again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import accuracy_booster as ab
from accuracy_booster.analysis.paired_differences import Difference
from accuracy_booster.files import read_json, write_json
from accuracy_booster.surgery import attached

NONE = "none"
START = "start"


@dataclass(frozen=True)
class Task:
    """One network and data set, and how long it is trained."""

    model: str
    data: str  # a folder of --data-dir
    image_size: int
    batch: int
    start_epochs: int
    epochs: int
    start_rate: float
    rate: float
    metric: str  # its name in ultralytics' results, a share of 1


TASKS = {
    "detect": Task(
        *("yolov8n.yaml", "coco_tiny", 320, 16, 300, 50, 1e-3, 2e-4, "metrics/mAP50-95(B)")
    ),
    "classify": Task(
        *("yolov8n-cls.yaml", "cifar10", 64, 128, 20, 10, 2e-3, 5e-4, "metrics/accuracy_top1")
    ),
}
IMAGES = {"train": 10_000, "test": 2_000}  # of CIFAR-10, the first of each split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tasks", default="detect,classify")
    parser.add_argument("--blocks", default="ab,se")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("runs/other_trainers_gain"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/other_trainers_gain.json"))
    parser.add_argument("--one", nargs=3, metavar=("TASK", "BLOCK", "SEED"), help="one training")
    given = parser.parse_args()
    if given.one:
        name, block, seed = given.one
        train(name, block, int(seed), given)
        return
    names, blocks = given.tasks.split(","), [NONE, *given.blocks.split(",")]
    for name in names:
        prepare(TASKS[name].data, given)
    make([(name, START, 0) for name in names], given)
    make([(n, b, s) for n in names for s in range(given.seeds) for b in blocks], given)
    result = summary(names, blocks, given)
    write_json(given.output, result)
    print(table(result))


# --- the trainings


def place(name: str, block: str, seed: int, given: argparse.Namespace) -> Path:
    """The folder of one training, without its suffix for files."""
    return (given.work / f"{name}-{block}-{seed}").resolve()


def make(trainings: Sequence[tuple[str, str, int]], given: argparse.Namespace) -> None:
    """Run the trainings that have no result, `--jobs` at a time."""
    left = [t for t in trainings if not place(*t, given).with_suffix(".json").is_file()]
    running: list[tuple[tuple[str, str, int], subprocess.Popen[bytes]]] = []
    environment = os.environ | {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    environment["YOLO_CONFIG_DIR"] = str(given.work.resolve())
    while left or running:
        while left and len(running) < given.jobs:
            training = left.pop(0)
            words = [sys.executable, __file__, *sys.argv[1:], "--one", *map(str, training)]
            log = place(*training, given).with_suffix(".log").open("wb")
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
            running.append((training, process))
        time.sleep(0.2)
        for entry in [entry for entry in running if entry[1].poll() is not None]:
            running.remove(entry)
            training, process = entry
            file = place(*training, given)
            if process.returncode:
                raise SystemExit(f"{file.with_suffix('.log')} says why {training} failed")
            row = read_json(file.with_suffix(".json"))
            print(*training, f"{row['metric']:.4f}", f"{row['seconds']:.0f} s", flush=True)


def train(name: str, block: str, seed: int, given: argparse.Namespace) -> None:
    """Make one training, and write its row."""
    from ultralytics import YOLO

    task = TASKS[name]
    file = place(name, block, seed, given)
    start = place(name, START, 0, given) / "weights" / "last.pt"
    first = block == START
    options: dict[str, Any] = {}
    if block not in (START, NONE):
        options["trainer"] = ab.integrations.ultralytics.trainer(block)
    began = time.perf_counter()
    YOLO(task.model if first else start).train(
        data=str(given.work.resolve() / task.data / ("data.yaml" if name == "detect" else "")),
        epochs=task.start_epochs if first else task.epochs,
        lr0=task.start_rate if first else task.rate,
        **{"optimizer": "AdamW", "cos_lr": True, "lrf": 0.01, "warmup_epochs": 1, "seed": seed},
        **{"imgsz": task.image_size, "batch": task.batch, "device": given.device, "patience": 0},
        **{"project": str(file.parent), "name": file.name, "exist_ok": True, "plots": False},
        **{"workers": 2, "verbose": False, "amp": False, "val": False},
        **options,
    )
    seconds = time.perf_counter() - began
    trained = YOLO(file / "weights" / "last.pt")
    gates = len(attached(trained.model))
    if bool(gates) != (block not in (START, NONE)):
        raise SystemExit(f"{gates} gates in the network that was trained with {block!r}")
    measured = trained.val(
        data=str(given.work.resolve() / task.data / ("data.yaml" if name == "detect" else "")),
        **{"imgsz": task.image_size, "device": given.device, "plots": False, "verbose": False},
        **{"project": str(file.parent), "name": f"{file.name}-val", "exist_ok": True},
    )
    row = {"metric": float(measured.results_dict[task.metric]), "gates": gates, "seconds": seconds}
    write_json(file.with_suffix(".json"), row)


# --- the data


def prepare(data: str, given: argparse.Namespace) -> None:
    """Write a data set as ultralytics wants it, once."""
    folder = given.work.resolve() / data
    done = folder / "done"
    if not done.is_file():
        (_coco if data == "coco_tiny" else _pictures)(given.data_dir.resolve() / data, folder)
        done.touch()


def _coco(source: Path, folder: Path) -> None:
    """Boxes of COCO's annotations as lines `class x y w h` in shares of the image."""
    names: dict[int, str] = {}
    for split in ("train2017", "val2017"):
        found = read_json(source / "annotations" / f"instances_{split}.json")
        categories = sorted(found["categories"], key=lambda c: c["id"])
        number = {c["id"]: i for i, c in enumerate(categories)}
        names = {i: c["name"] for i, c in enumerate(categories)}
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
        images = folder / "images" / split
        images.mkdir(exist_ok=True)
        for image in found["images"]:
            target = images / image["file_name"]
            target.write_bytes((source / split / image["file_name"]).read_bytes())
            lines = [
                _line(a["bbox"], number[a["category_id"]], image["width"], image["height"])
                for a in found["annotations"]
                if a["image_id"] == image["id"] and not a.get("iscrowd")
            ]
            label = folder / "labels" / split / f"{target.stem}.txt"
            label.write_text("".join(lines))
    head = {"path": str(folder), "train": "images/train2017", "val": "images/val2017"}
    (folder / "data.yaml").write_text(json.dumps({**head, "names": names}))


def _line(box: Sequence[float], number: int, width: int, height: int) -> str:
    x, y, w, h = box
    return f"{number} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}\n"


def _pictures(source: Path, folder: Path) -> None:
    """The first images of each split as PNG files, a folder for each class."""
    import pyarrow.parquet as pq

    for split, count in IMAGES.items():
        rows: list[dict[str, Any]] = []
        for file in sorted(source.glob(f"{split}-*.parquet")):
            rows += pq.read_table(file).to_pylist()
            if len(rows) >= count:
                break
        for i, row in enumerate(rows[:count]):
            target = folder / split / f"{row['label']}" / f"{i:05d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            from PIL import Image

            Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB").save(target)


# --- the result


def summary(names: Sequence[str], blocks: Sequence[str], given: argparse.Namespace) -> dict:
    """All numbers, in %, with the differences to no block by seed."""
    tasks = {}
    for name in names:
        start = read_json(place(name, START, 0, given).with_suffix(".json"))
        rows = {}
        for block in blocks:
            found = [
                read_json(place(name, block, seed, given).with_suffix(".json"))
                for seed in range(given.seeds)
            ]
            rows[block] = {
                "gates": found[0]["gates"],
                "metric": {s: 100 * row["metric"] for s, row in enumerate(found)},
            }
        for block in blocks[1:]:
            pairs = zip(rows[block]["metric"].items(), rows[NONE]["metric"].values(), strict=True)
            difference = Difference({seed: a - b for (seed, a), b in pairs})
            rows[block]["difference"] = difference.mean
            rows[block]["interval"] = difference.interval
        tasks[name] = {**asdict(TASKS[name]), "start": 100 * start["metric"], "blocks": rows}
    device = platform.processor() or platform.machine()
    if given.device != "cpu":
        device = torch.cuda.get_device_name()
    return {
        "command": "python benchmarks/other_trainers_gain.py --data-dir DIR "
        f"--device {given.device} --jobs {given.jobs}",
        "device": device,
        "versions": {n: metadata.version(n) for n in ("ultralytics", "torch")},
        "images of cifar10": IMAGES,
        "seeds": given.seeds,
        "tasks": tasks,
    }


def table(result: dict) -> str:
    """The rows as Markdown."""
    lines = ["| task | start | block | gates | mean | difference to no block, 95 % interval |"]
    lines.append("|---|---|---|---|---|---|")
    for name, task in result["tasks"].items():
        for block, row in task["blocks"].items():
            mean = sum(row["metric"].values()) / len(row["metric"])
            difference = ""
            if "difference" in row:
                difference = f"{row['difference']:+.2f}"
                if row["interval"] is not None:
                    low, high = row["interval"]
                    difference += f" [{low:+.2f}, {high:+.2f}]"
            start = f"{task['start']:.2f}"
            lines.append(
                f"| {name} | {start} | {block} | {row['gates']} | {mean:.2f} | {difference} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
