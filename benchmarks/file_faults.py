"""Kills while files are replaced, damaged files, changed data: counted by faults.py.

Kills are SIGKILL at seeded random instants inside the system's calls that write files.
"""

from __future__ import annotations

import random
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from children import class_folders, in_child, plant, wait
from PIL import Image

import accuracy_booster as ab
from accuracy_booster.files import read_json
from accuracy_booster.report import page
from accuracy_booster.surgery import attached

SHORT = {
    **{"device": "cpu", "epochs": 1, "batch_size": 512, "compile": "off", "seed": 1},
    "data": "digits",
}


def killed(work: Callable[[], Any], log: Path, seed: int, latest: int) -> bool:
    """Run in a child that dies at its n-th call that writes, n random; whether it died."""

    def doomed() -> None:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        plant("checkpoint", random.Random(seed), latest)
        work()

    return wait(in_child(doomed, log)) == signal.SIGKILL


def quietly(work: Callable[[], Any], log: Path) -> bool:
    """Run in a child to its end; whether it came there."""

    def child() -> None:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        work()

    return wait(in_child(child, log)) == 0


def same_weights(first: Path, second: Path) -> bool:
    a, b = ((p / "model.safetensors").read_bytes() for p in (first, second))
    return _same_tensors(a, b)


def network(seed: int) -> Any:
    """A boosted network whose gates are a function of the seed."""
    torch.manual_seed(0)
    model = ab.create_model("resnet8", block="ab")
    torch.manual_seed(seed)
    for gate in attached(model).values():
        for parameter in gate.parameters():
            torch.nn.init.normal_(parameter)
    return model


def saves(folder: Path, number: int) -> dict[str, int]:
    """Killed while a save replaces a save: the old or the new one loads."""
    old, new = network(1), network(2)
    row = {"killed": 0, "old": 0, "new": 0, "neither": 0}
    for i in range(number):
        place = folder / f"save{i}"
        ab.save(old, place)
        row["killed"] += killed(lambda place=place: ab.save(new, place), folder / "log", i, 12)
        torch.manual_seed(0)
        base = ab.create_model("resnet8")
        try:
            ab.load(base, place)
        except ValueError as e:
            row["neither"] += 1
            print(f"save {i}: {e}")
            continue
        for name, model in (("old", old), ("new", new)):
            state = model.state_dict()
            row[name] += all(torch.equal(v, state[k]) for k, v in base.state_dict().items())
    row["neither"] = number - row["old"] - row["new"]
    return row


def reports(folder: Path, number: int) -> dict[str, int]:
    """Killed while a report replaces a report: the old or the new one is there, whole."""
    path = folder / "report.html"
    row = {"killed": 0, "whole": 0}
    texts = []
    for title in ("old", "new"):
        page.write_page(path, title, "lead", [{"title": "x", "text": title * 9999}])
        texts.append(len(path.read_bytes()))
    for i in range(number):
        page.write_page(path, "old", "lead", [{"title": "x", "text": "old" * 9999}])

        def again() -> None:
            page.write_page(path, "new", "lead", [{"title": "x", "text": "new" * 9999}])

        row["killed"] += killed(again, folder / "log", i, 6)
        content = path.read_text()
        row["whole"] += len(content.encode()) in texts and content.rstrip().endswith("</html>")
    return row


def comparisons(folder: Path, number: int) -> dict[str, int]:
    """Killed at any write of a comparison, and resumed: its results are the uninterrupted one's."""

    def compare(where: Path) -> None:
        if (where / "compare.json").exists():
            ab.compare(resume=where)
        else:
            ab.compare("resnet8", blocks=["none", "ab"], seeds=1, output=str(where), **SHORT)

    def result(where: Path) -> Any:
        rows = read_json(where / "results.json")["rows"]
        return [{k: v for k, v in row.items() if k != "ms_per_image"} for row in rows]

    reference = folder / "reference"
    assert quietly(lambda: compare(reference), folder / "log")
    row = {"killed": 0, "equal": 0}
    for i in range(number):
        where = folder / f"c{i}"
        row["killed"] += killed(lambda where=where: compare(where), folder / "log", i, 80)
        ended = quietly(lambda where=where: compare(where), folder / "log")
        names = ("none-s1", "ab-s1")
        if ended and result(where) == result(reference):
            row["equal"] += all(same_weights(where / n, reference / n) for n in names)
        else:
            print(f"comparison {i}: {(folder / 'log').read_text()[-500:]}")
        shutil.rmtree(where)
    return row


def overwrites(folder: Path, number: int) -> dict[str, int]:
    """Killed while a run replaces a run, and started again: the new run's end, other files kept."""
    given = {"model": "resnet8", "block": "ab", **SHORT}
    old, new = folder / "old", folder / "new"
    assert quietly(lambda: ab.train(**{**given, "seed": 2}, output=str(old)), folder / "log")
    assert quietly(lambda: ab.train(**given, output=str(new)), folder / "log")
    row = {"killed": 0, "equal": 0, "other files kept": 0}
    for i in range(number):
        run = shutil.copytree(old, folder / f"run{i}")
        mine = [run / "checkpoints" / "mine.pt", run / "notes.txt"]
        for file in mine:
            file.write_text("mine")

        def again(run: Path = run) -> None:
            ab.train(**given, output=str(run), overwrite=True)

        row["killed"] += killed(again, folder / "log", i, 40)
        ended = quietly(again, folder / "log")
        row["equal"] += ended and same_weights(run, new)
        row["other files kept"] += all(file.read_text() == "mine" for file in mine)
        shutil.rmtree(run)
    return row


def damaged_weights(folder: Path, number: int) -> dict[str, int]:
    """A finished run's weights, damaged: measuring refuses them, resuming makes them again."""
    given = {"model": "resnet8", "block": "ab", **SHORT}
    run, other = folder / "run", folder / "other"
    ab.train(**given, output=str(run))
    ab.train(**{**given, "seed": 2}, output=str(other))
    weights = run / "model.safetensors"
    whole = weights.read_bytes()
    row = {"damaged": 0, "refused": 0, "made again": 0}
    for i in range(number):
        generator = random.Random(i)
        content = bytearray(whole)
        place = generator.randrange(len(content))
        kind = ("bit", "cut", "empty", "zeros", "another run's")[i % 5]
        if kind == "bit":
            content[place] ^= 1 << generator.randrange(8)
        elif kind == "cut":
            del content[place:]
        elif kind == "empty":
            content.clear()
        elif kind == "zeros":
            content[place : place + 64] = bytes(len(content[place : place + 64]))
        else:
            content = bytearray((other / "model.safetensors").read_bytes())
        weights.write_bytes(content)
        row["damaged"] += 1
        try:
            ab.evaluate(run)
        except ValueError:
            row["refused"] += 1
        else:  # a space of the header, or zeros over zeros: every tensor is what it was
            row["refused"] += _same_tensors(content, whole)
        ab.train(resume=run)
        row["made again"] += _same_tensors(weights.read_bytes(), whole)
        weights.write_bytes(whole)
    return row


def _same_tensors(first: bytes | bytearray, second: bytes) -> bool:
    from safetensors.torch import load

    try:
        a, b = load(bytes(first)), load(second)
    except Exception:
        return False
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def changed_data(folder: Path) -> dict[str, Any]:
    """One file of the data changed between a run's epochs: refused, and nothing is written."""

    def paint(file: Path, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(file)

    def make(root: Path) -> Path:
        for place, label, i in class_folders(root, {"train": 12, "test": 6}, classes=2):
            paint(place / f"{i}.bmp", 100 * label + i)
        return root

    one = Path("train/class0/3.bmp")
    ways: dict[str, Callable[[Path], Any]] = {
        "removed": lambda root: (root / one).unlink(),
        "added": lambda root: paint(root / "train/class1/new.bmp", 7),
        "renamed": lambda root: (root / one).rename(root / "train/class0/0b.bmp"),
        "another class": lambda root: (root / one).rename(root / "train/class1/0b.bmp"),
        "other pixels, same size": lambda root: paint(root / one, 7),
        "a test image": lambda root: paint(root / "test/class1/2.bmp", 7),
        "two swapped": lambda root: _swap(root / one, root / "train/class1/3.bmp"),
    }
    refused = {}
    for i, (name, change) in enumerate(ways.items()):
        data, run = make(folder / f"data{i}"), folder / f"data-run{i}"
        options = {**SHORT, "data": str(data), "batch_size": 8}
        ab.train("resnet8", block="ab", output=str(run), **options)
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        change(data)
        try:
            ab.train(resume=run, epochs=2)
        except ValueError:
            now = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
            refused[name] = now == before
        else:
            refused[name] = False
    return {"changes": len(ways), "refused": sum(refused.values()), **refused}


def _swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def measure(folder: Path, number: int) -> dict[str, Any]:
    """Every kind, each in a folder of its own."""
    counted: dict[str, Callable[[Path, int], dict[str, int]]] = {
        "save over a save": saves,
        "report over a report": reports,
        "comparison": comparisons,
        "run over a run": overwrites,
        "damaged weights": damaged_weights,
    }
    rows: dict[str, Any] = {}
    for name, work in counted.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        rows[name] = work(place, number)
        print(name, rows[name], flush=True)
    (folder / "data").mkdir()
    rows["changed data"] = changed_data(folder / "data")
    print("changed data", rows["changed data"], flush=True)
    return rows
