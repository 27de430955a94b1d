"""Exported networks in their own runtimes: the time with a block over the time without one.

python benchmarks/exported.py [--only NAME ...] [--formats onnx ...] [--rounds N] [--work FOLDER]
python benchmarks/exported.py --write   # puts the tables of the JSON into docs/deploy.md

Each network in each format is a process of its own, which writes these files, all for any batch:
"none", without a block, folded; and for each block its "plain" network, not folded, its "folded"
one, which is what `ab.export` writes, and "tried", with gates in another graph form. The files take
turns; a ratio is a file's time over that of "none" in the same round. The weights are random, with
statistics of norms as after training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import exported_profiles
import numpy as np
import publishing
import torch
from exported_gates import in_form
from torch import nn

import accuracy_booster as ab
from accuracy_booster.analysis.machine import this_machine
from accuracy_booster.deploy.writing import converted
from accuracy_booster.exported.about import About
from accuracy_booster.exported.formats import format_named
from accuracy_booster.exported.sessions import Session, open_file
from accuracy_booster.surgery.listing import attached

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
FORMATS = ("onnx", "openvino", "torch")
SIDES = {"resnet56": 32, "resnet50": 224, "shufflenet_g3": 224}  # pixels
BLOCKS = ("ab", "se")
BATCHES = (1, 16)
TURN = 0.1  # seconds that a file runs in a round, at least once, after one run that does not count
PROFILED = ("none", "ab, plain", "ab, folded", "ab, tried")
# the other graph form that was best in trials of whole networks; for torch none was tried
TRIED = {"onnx": ("convolutions", "map"), "openvino": ("reduced", "broadcast")}


def write(network: nn.Module, name: str, images: torch.Tensor, folder: Path, form: str) -> Path:
    """Write a network as a file for any batch size, as `ab.export` does."""
    path = folder / f"{name.replace(', ', '_')}{format_named(form).suffix}"
    size = images.shape[1:]
    about = About(name, "", (), tuple(size), (0.0,) * 3, (1.0,) * 3)
    converted(network, format_named(form), tuple(size))(path, about)
    return path


def randomise(network: nn.Module) -> None:
    """Give norms and gates numbers as after training, so that errors can be seen, in place."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.normal_(module.bias, 0, 0.1)
    for gate in attached(network).values():
        for parameter in gate.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2)


def networks(name: str, form: str, images: torch.Tensor) -> dict[str, nn.Module]:
    """The variants of a network, by their names."""
    found: dict[str, nn.Module] = {}
    one = images[:1]
    for block in (None, *BLOCKS):
        torch.manual_seed(0)
        network = ab.create_model(name)
        if block is not None:
            ab.boost(network, block, example=one)
        network.eval()
        randomise(network)
        folded = ab.fold(network, kernel="off", example=one)
        if block is None:
            found["none"] = folded
            continue
        found[f"{block}, plain"], found[f"{block}, folded"] = network, folded
        if form in TRIED:
            found[f"{block}, tried"] = in_form(folded, *TRIED[form], one)
    return found


def turn(run: Session, images: np.ndarray) -> float:
    """The seconds of one run, the mean of a turn."""
    run(images)  # threads of the file before may still spin
    start, count = time.perf_counter(), 0
    while not count or time.perf_counter() - start < TURN:
        run(images)
        count += 1
    return (time.perf_counter() - start) / count


@torch.no_grad()
def one(name: str, form: str, rounds: int) -> dict[str, Any]:
    """The result of one network in one format, in this process."""
    warnings.simplefilter("ignore")
    side = SIDES[name]
    images = torch.randn(max(BATCHES), 3, side, side, generator=torch.Generator().manual_seed(1))
    variants = networks(name, form, images)
    rows: dict[str, Any] = {}
    profiles: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files, sessions = {}, {}
        for variant, network in variants.items():
            path = files[variant] = write(network, variant, images, Path(folder), form)
            sessions[variant] = open_file(path, check=False)
            few = images[:3]
            expected = network(few).numpy()
            error = np.abs(sessions[variant](few.numpy()) - expected).max()
            size = sum(f.stat().st_size for f in Path(folder).glob(f"{path.stem}.*"))
            rows[variant] = {
                "error_of_largest": float(f"{error / np.abs(expected).max():.2g}"),
                "megabytes": round(size / 1e6, 2),
                "batches": {},
            }
        for batch in BATCHES:
            x = images[:batch].numpy()
            seconds: dict[str, list[float]] = {variant: [] for variant in sessions}
            for _ in range(rounds):
                for variant, session in sessions.items():
                    seconds[variant].append(turn(session, x))
            for variant, own in seconds.items():
                pairs = zip(own, seconds["none"], strict=True)
                rows[variant]["batches"][batch] = {
                    "milliseconds": round(1e3 * statistics.median(own), 3),
                    **publishing.quartiles([a / b for a, b in pairs]),
                }
            profiles[str(batch)] = {
                variant: exported_profiles.of_file(files[variant], form, x)
                for variant in PROFILED
                if variant in files
            }
    packages = {"torch", format_named(form).runtime, *format_named(form).writers}
    return {
        "machine": asdict(this_machine(torch.device("cpu"))),
        "versions": {package: version(package) for package in sorted(packages)},
        "rounds": rounds,
        "rows": rows,
        "profiles": profiles,
    }


def measure(given: argparse.Namespace) -> None:
    for name in given.only:
        for form in given.formats:
            command = [sys.executable, __file__, "--one", name, form, "--rounds", str(given.rounds)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(ended.stdout.splitlines()[-1])
            done = json.loads(given.output.read_text()) if given.output.exists() else {}
            key = f"{name}, {form}"
            done[key] = publishing.with_machine(done.get(key, []), result)
            given.output.write_text(json.dumps(done, indent=1) + "\n")
            print("\n".join(" | ".join(cells) for cells in lines(key, result)), flush=True)


def lines(key: str, result: dict[str, Any]) -> list[list[str]]:
    """The rows of a table."""
    found = []
    for variant, row in result["rows"].items():
        batches = row["batches"].values()
        ratios = [publishing.ratio(b) if variant != "none" else "" for b in batches]
        times = [f"{b['milliseconds']:.2f}" for b in batches]
        size, error = f"{row['megabytes']:.1f}", f"{row['error_of_largest']:.0e}"
        found.append([key, variant, *times, *ratios, size, error])
    return found


def table(done: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table of all results, and the machine."""
    header = ["network, format", "file", *(f"batch {b}, ms" for b in BATCHES)]
    header += [*(f"batch {b}, of none" for b in BATCHES), "MB", "largest error"]
    rows = [line for key, results in done.items() for r in results for line in lines(key, r)]
    last = [result for results in done.values() for result in results]
    versions = dict(sorted(p for result in last for p in result["versions"].items()))
    names = ", ".join(f"{name} {number}" for name, number in versions.items())
    rounds = ", ".join(str(n) for n in sorted({result["rounds"] for result in last}))
    return (
        f"{publishing.markdown(header, rows)}\n\n"
        f"{publishing.machine(last[-1]['machine'])}; {names}; {rounds} rounds."
    )


def profile(done: dict[str, list[dict[str, Any]]], key: str) -> str:
    """A Markdown table of where a runtime's time goes."""
    told = done[key][-1]["profiles"]
    columns = {(f, batch): told[batch][f] for batch in told for f in told[batch]}
    operators = list(dict.fromkeys(name for column in columns.values() for name in column))
    operators.sort(key=lambda name: -max(column.get(name, 0) for column in columns.values()))
    header = [f"{key}: ms", *(f"{f}, batch {batch}" for f, batch in columns)]
    rows = [
        [name, *(f"{c[name]:.2f}" if name in c else "" for c in columns.values())]
        for name in operators
    ]
    return publishing.markdown(header, rows)


def written(name: str, done: dict[str, list[dict[str, Any]]]) -> str | None:
    """What stands behind a mark in docs/deploy.md; None for a mark of another benchmark."""
    if name == "exported":
        return table(done)
    kind, _, key = name.partition(":")
    return profile(done, key.replace("-", ", ")) if kind == "exported-profile" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--rounds", type=int, default=9)
    publishing.arguments(parser, __file__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one, given.rounds)))
    elif given.write:
        publishing.fill(PAGE, written, given.output)
    else:
        with publishing.nothing_else_running(given.work):
            measure(given)


if __name__ == "__main__":
    main()
