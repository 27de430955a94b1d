"""int8 on real data: ResNet-20 on CIFAR-10, with and without gates, in onnxruntime and OpenVINO.

python benchmarks/int8.py --data CIFAR10 --weights resnet20_cifar10.th [--images N] [--epochs N]
                          [--threads N] [--rounds N] [--work FOLDER]
python benchmarks/int8.py --time [--work FOLDER]   # times the files again, measures nothing else
python benchmarks/int8.py --write                  # puts the table of the JSON into docs/deploy.md

The network without gates is the public checkpoint of akamaster/pytorch_resnet_cifar10. Those with
gates start from it and are trained on the first N training images, so that their gates are no
longer the identity. Accuracy is of all test images. CIFAR10 is a folder of Parquet files.
int8.json gets the result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import publishing
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.analysis.machine import this_machine
from accuracy_booster.deploy.int8 import write_int8
from accuracy_booster.deploy.writing import converted
from accuracy_booster.exported import About, open_file
from accuracy_booster.exported.formats import format_of
from accuracy_booster.models import from_akamaster
from accuracy_booster.training.opening_to_measure import open_measured

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
BLOCKS = ("none", "ab", "ab_plus", "se")
FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "OpenVINO"}
BATCHES = (1, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRECISIONS = ("float32", "int8")


def first_images(data: Path, images: int, work: Path) -> Path:
    """The data with the first training images alone."""
    import pyarrow.parquet as parquet

    folder = work / f"cifar10-{images}"
    if not folder.exists():
        part = work / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for file in data.rglob("test-*.parquet"):
            shutil.copy(file, part)
        first = sorted(data.rglob("train-*.parquet"))[0]
        table = parquet.read_table(first)[:images]
        parquet.write_table(table, part / "train-00000-of-00001.parquet")
        part.rename(folder)
    return folder


def network_of(block: str, given: argparse.Namespace) -> nn.Module:
    """The network with trained weights. One with gates is trained, if it was not yet."""
    stored = torch.load(given.weights, map_location="cpu", weights_only=True)["state_dict"]
    weights = from_akamaster(stored)
    if block == "none":
        network = ab.create_model("resnet20")
        network.load_state_dict(weights)
        network.pretrained_cfg = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD}
        return network.eval()
    run = given.work / f"{block}-{given.images}-{given.epochs}"
    if not (run / "model.safetensors").exists():
        file = given.work / "weights.pth"
        torch.save(weights, file)
        ab.train(
            *("resnet20",),
            block=block,
            data=str(first_images(given.data, given.images, given.work)),
            weights=str(file),
            mean=MEAN,
            std=STD,
            epochs=given.epochs,
            batch_size=64,
            lr=0.01,
            compile="off",
            fuse="off",
            output=str(run),
        )
    return ab.load_run(run)


def write_float(network: nn.Module, block: str, path: Path) -> None:
    """The float32 file of a network, folded; any number of images."""
    about = About("resnet20", block, tuple(map(str, range(10))), (3, 32, 32), MEAN, STD)
    example = torch.zeros(2, 3, 32, 32)
    folded = ab.fold(network, example=example[:1], kernel="off")
    converted(folded, format_of(path), about.input_size)(path, about)


def file_of(work: Path, block: str, format: str, precision: str) -> Path:
    return work / f"{block}-{precision}{FORMATS[format]}"


def size_of(path: Path) -> int:
    """The bytes of a file, and of the weights beside it."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Write the files and measure their accuracy."""
    result: dict[str, Any] = {"images": given.images, "epochs": given.epochs, "networks": {}}
    for block in BLOCKS:
        network = network_of(block, given)
        train, test = (
            open_measured(network, str(given.data), split=split) for split in ("train", "test")
        )
        for format in FORMATS:
            float32, int8 = (file_of(given.work, block, format, p) for p in PRECISIONS)
            write_float(network, block, float32)
            start = time.perf_counter()
            made = write_int8(float32, int8, train, test, max_drop=100)
            row = made.to_dict() | {"seconds": time.perf_counter() - start}
            row["bytes"] = {"float32": size_of(float32), "int8": size_of(int8)}
            result["networks"].setdefault(block, {})[format] = row
            print(f"{block}, {format}: {made}", flush=True)
    return result


def timed(given: argparse.Namespace) -> dict[str, Any]:
    """The time of each file over that of the float32 file without gates, in the same runtime.

    The files take turns in one process, and each ratio is of one round.
    """
    result: dict[str, Any] = {"threads": given.threads, "rounds": given.rounds}
    for format in FORMATS:
        sessions = {
            (block, precision): open_file(
                file_of(given.work, block, format, precision), threads=given.threads
            )
            for block in BLOCKS
            for precision in PRECISIONS
        }
        for batch in BATCHES:
            images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            times = rounds(sessions, images.numpy(), given.rounds, calls=max(1, 8 // batch))
            base = times["none", "float32"]
            result.setdefault(format, {})[str(batch)] = {
                f"{block} {precision}": {
                    "milliseconds": 1000 * median(found),
                    **spread([a / b for a, b in zip(found, base, strict=True)]),
                }
                for (block, precision), found in times.items()
            }
    return result


def rounds(sessions: dict[Any, Any], images: Any, count: int, calls: int) -> dict[Any, list[float]]:
    """Seconds of a call in each round, by session."""
    times: dict[Any, list[float]] = {key: [] for key in sessions}
    for number in range(count + 2):  # two for warming up
        for key, session in sessions.items():
            start = time.perf_counter()
            for _ in range(calls):
                session(images)
            if number >= 2:
                times[key].append((time.perf_counter() - start) / calls)
    return times


def spread(ratios: list[float]) -> dict[str, float]:
    low, middle, high = quantiles(ratios, n=4)
    return {"ratio": middle, "low": low, "high": high}


def table(result: dict[str, Any]) -> str:
    """A Markdown table."""
    header = ["runtime", "block", "precision", "top-1, %", "other class", "KB"]
    header += [f"time, batch {batch}" for batch in BATCHES]
    rows = []
    for format in FORMATS:
        for block in BLOCKS:
            found = result["networks"][block][format]
            for precision in PRECISIONS:
                times = [
                    publishing.ratio(result["time"][format][str(batch)][f"{block} {precision}"])
                    for batch in BATCHES
                ]
                other = str(found["differing"]) if precision == "int8" else ""
                accuracy = f"{found[precision]['top1']:.2f}"
                size = f"{found['bytes'][precision] / 1024:.0f}"
                rows.append([RUNTIMES[format], block, precision, accuracy, other, size, *times])
    machine = publishing.machine(result["machine"])
    count = result["time"]["threads"]
    words = (
        f"{machine}. {count} thread{'s'[: count != 1]} for each file, {result['time']['rounds']} "
        "rounds. Times are over that of the float32 file without gates in the same runtime."
    )
    return f"{publishing.markdown(header, rows)}\n\n{words}"


def written(name: str, done: dict[str, Any]) -> str | None:
    """What stands behind a mark in docs/deploy.md; None for a mark of another benchmark."""
    return table(done) if name == "int8" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of CIFAR-10 in Parquet files")
    parser.add_argument("--weights", type=Path, help="the public checkpoint of ResNet-20")
    parser.add_argument("--images", type=int, default=10_000, help="to train the gates on")
    parser.add_argument("--epochs", type=int, default=2)
    # each file has threads of its own, and several disturb those of the others
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--work", type=Path, default=Path("int8-work"), help="of runs and files")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--time", action="store_true", help="time the files of an earlier call")
    parser.add_argument(
        "--write", action="store_true", help="write the table into docs/deploy.md, measure nothing"
    )
    given = parser.parse_args()
    if given.write:
        publishing.fill(PAGE, written, given.output)
        return
    if given.time:
        result = json.loads(given.output.read_text())
    elif given.data is None or given.weights is None:
        parser.error("give --data and --weights")
    else:
        given.work.mkdir(parents=True, exist_ok=True)
        result = measure(given)
    result["machine"] = asdict(this_machine(torch.device("cpu")))
    result["time"] = timed(given)
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
