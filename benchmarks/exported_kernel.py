"""Boosted networks compiled with our kernel beside the same networks in onnxruntime and OpenVINO.

python benchmarks/exported_kernel.py [--only NAME ...] [--rounds N] [--work FOLDER]
python benchmarks/exported_kernel.py --write   # puts the table of the JSON into docs/deploy.md

All files are for any number of images, float32. In a round each runs after one run that does not
count. A ratio is a file's time over that of the network without a block in onnxruntime, or in
OpenVINO, in the same round. Each case is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ahead_of_time
import exported
import publishing
import torch

import accuracy_booster as ab
from accuracy_booster.analysis.machine import this_machine
from accuracy_booster.deploy.ahead_of_time import converted
from accuracy_booster.exported import About, open_file

MARK = "exported-kernel"
BASES = {"onnxruntime": "none, onnxruntime", "OpenVINO": "none, OpenVINO"}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "OpenVINO"}
BLOCKS = ("none", "ab", "se")
THREADS = (1, 2)


def files(name: str, images: torch.Tensor, folder: Path, threads: int) -> dict[str, Any]:
    """What runs each file, by its name."""
    found = {}
    size = tuple(images.shape[1:])
    for block in BLOCKS:
        torch.manual_seed(0)
        network = ab.create_model(name, num_classes=10, block=block).eval()
        exported.randomise(network)
        folded = ab.fold(network, kernel="off", example=images[:1])
        for form, runtime in RUNTIMES.items():
            path = exported.write(folded, f"{block}, {runtime}", images, folder, form)
            found[f"{block}, {runtime}"] = open_file(path, threads=threads, check=False)
        with_kernel = ab.fold(network, kernel="auto", example=images)
        path = folder / f"{block}.aoti.pt2"
        about = About(name, block, (), size, (0.0,) * 3, (1.0,) * 3)
        converted(with_kernel, torch.zeros(2, *size), ahead_of_time.ANY)(path, about)
        found[f"{block}, our kernel"] = open_file(path, threads=threads, check=False)
    return found


def one(name: str, batch: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of a case, in this process."""
    torch.set_num_threads(threads)
    side = exported.SIDES[name]
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    seconds: dict[str, list[float]]
    with tempfile.TemporaryDirectory() as folder:
        runs = files(name, images, Path(folder), threads)
        seconds = {key: [] for key in runs}
        for _ in range(rounds):
            for key, run in runs.items():
                seconds[key].append(exported.turn(run, images.numpy()))
    return [
        {
            **{"network": name, "batch": batch, "threads": threads, "file": key},
            "milliseconds": round(1e3 * statistics.median(own), 3),
            "of": {
                base: publishing.quartiles([a / b for a, b in zip(own, seconds[of], strict=True)])
                for base, of in BASES.items()
            },
        }
        for key, own in seconds.items()
    ]


def table(done: dict[str, Any]) -> str:
    """A Markdown table, and the machine."""
    header = ["network", "images", "threads", "file", "ms"]
    header += [f"of none in {base}" for base in BASES]
    rows = [
        [
            *(row["network"], str(row["batch"]), str(row["threads"]), row["file"]),
            f"{row['milliseconds']:.2f}",
            *(publishing.ratio(row["of"][base]) for base in BASES),
        ]
        for row in done["rows"]
        if row["file"] != BASES["onnxruntime"]
    ]
    versions = ", ".join(f"{name} {number}" for name, number in done["versions"].items())
    about = f"{publishing.machine(done['machine'])}; {versions}; {done['rounds']} rounds."
    return f"{publishing.markdown(header, rows)}\n\n{about}"


def written(name: str, done: dict[str, Any]) -> str | None:
    """What stands behind a mark in docs/deploy.md; None for a mark of another benchmark."""
    return table(done) if name == MARK else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=exported.SIDES, default=["resnet50"])
    parser.add_argument("--rounds", type=int, default=15)
    publishing.arguments(parser, __file__)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, batch, threads = given.one
        print(json.dumps(one(name, int(batch), int(threads), given.rounds)))
        return
    if given.write:
        publishing.fill(exported.PAGE, written, given.output)
        return
    rows: list[dict[str, Any]] = []
    with publishing.nothing_else_running(given.work):
        for name in given.only:
            for batch in exported.BATCHES:
                for threads in THREADS:
                    words = [name, str(batch), str(threads), "--rounds", str(given.rounds)]
                    command = [sys.executable, __file__, "--one", *words]
                    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    rows += json.loads(ended.stdout.splitlines()[-1])
    packages = ("onnxruntime", "openvino", "torch")
    result = {
        "machine": asdict(this_machine(torch.device("cpu"))),
        **{"versions": {p: version(p) for p in packages}, "rounds": given.rounds, "rows": rows},
    }
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
