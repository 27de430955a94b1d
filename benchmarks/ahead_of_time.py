"""The time of networks that are compiled ahead of time, with our convolution kernel and without.

python benchmarks/ahead_of_time.py [--only NAME ...] [--seconds N] [--work FOLDER]
python benchmarks/ahead_of_time.py --write   # puts the table of the JSON into docs/deploy.md

All files of a network are called in turn, by one thread. What is measured is the thread's time on
the processor, so other programs change it little. A ratio is a file's time over that of the network
without a block in the same round. Each case is a process of its own.
"""

# N images, C channels, H W space

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import publishing
import torch

import accuracy_booster as ab
from accuracy_booster.analysis.machine import this_machine
from accuracy_booster.deploy.ahead_of_time import converted
from accuracy_booster.exported import About, open_file

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
MARK = "ahead-of-time"
ANY = ({0: torch.export.Dim("batch", min=1)},)
BASE = "no block"
FILES = {  # block, kernel of `ab.fold`, and the numbers of images that the file takes
    BASE: ("none", "off", ANY),
    "no block, a fixed number of images": ("none", "off", None),
    "AB": ("ab", "off", ANY),
    "AB, a fixed number of images": ("ab", "off", None),
    "AB with our kernel": ("ab", "auto", ANY),
}
CASES = {  # network, pixels along an edge, images
    "ResNet-50, 1 image of 224x224": ("resnet50", 224, 1),
    "ResNet-20, 1 image of 32x32": ("resnet20", 32, 1),
    "ResNet-20, 16 images": ("resnet20", 32, 16),
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
        found[name] = open_file(file, check=False)
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


def one(case: str, seconds: float) -> dict[str, Any]:
    """The result of a case, in this process."""
    torch.set_num_threads(1)
    network, side, batch = CASES[case]
    images = torch.randn(batch, 3, side, side)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(files(network, images, Path(folder)), images, seconds)
    found = {}
    for name, row in times.items():
        found[name] = {
            "milliseconds": round(statistics.median(row), 3),
            **publishing.quartiles([a / b for a, b in zip(row, times[BASE], strict=True)]),
        }
    machine = asdict(this_machine(torch.device("cpu")))
    return {"machine": machine, "rounds": len(times[BASE]), "files": found}


def table(done: dict[str, Any]) -> str:
    """A Markdown table of all cases, and the machine."""
    cases = [case for case in CASES if case in done]
    rows = [
        [name, *(publishing.ratio(done[case]["files"][name]) for case in cases)]
        for name in FILES
        if name != BASE
    ]
    times = (f"{done[case]['files'][BASE]['milliseconds']:.2f} ms" for case in cases)
    rows.insert(0, [f"{BASE}, the thread's time", *times])
    machine = publishing.machine(done[cases[-1]]["machine"])
    rounds = publishing.rounds(done[case] for case in cases)
    return f"{publishing.markdown(['', *cases], rows)}\n\n{machine}; {rounds}."


def written(name: str, done: dict[str, Any]) -> str | None:
    """What stands behind a mark in docs/deploy.md; None for a mark of another benchmark."""
    return table(done) if name == MARK else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=float, default=30, help="for all files of a case")
    publishing.arguments(parser, __file__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.seconds)))
        return
    if given.write:
        publishing.fill(PAGE, written, given.output)
        return
    done = json.loads(given.output.read_text()) if given.output.exists() else {}
    with publishing.nothing_else_running(given.work):
        for case in given.only:
            command = [sys.executable, __file__, "--one", case, "--seconds", str(given.seconds)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            done[case] = json.loads(ended.stdout.splitlines()[-1])
            given.output.write_text(json.dumps(done, indent=1) + "\n")
    print(table(done))


if __name__ == "__main__":
    main()
