"""Benchmarks: their files keep old rows, and the documents show their figures."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import accuracy_booster as ab

ROOT = Path(ab.__file__).parent.parent


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)


def load(*path):
    file = ROOT.joinpath(*path)
    if not file.is_file():
        pytest.skip("the repository's benchmarks are not here")
    spec = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fast_path():
    return load("benchmarks", "fast_path.py")


@pytest.fixture(scope="module")
def other_trainers():
    return load("benchmarks", "other_trainers.py")


def row(block, path, ratio, **changes):
    return {
        **{"mode": "infer", "batch_size": 1, "compile": True, "block": block, "path": path},
        **{"ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "rounds": 9, "fast": 16},
        **{"places": 16, "paper": None, "memory_ratio": 1.0},
        "frozen": {"packed": 53, "plain": 0, "sums": 16},
        **changes,
    }


RESULT = {
    **{"model": "resnet50", "input_size": [3, 224, 224], "device": "A processor", "threads": 2},
    **{"torch": "2.15.0", "rounds": 15},
    "rows": [row("none", "naive", 1.0), row("ab", "naive", 1.2), row("ab", "ours", 1.04)],
}


def test_the_benchmark_keeps_what_it_has_and_mixes_no_machines(fast_path):
    new = {**RESULT, "rows": [row("ab", "ours", 1.05), row("ab", "ours", 1.03, batch_size=16)]}
    both = fast_path.merged(RESULT, new)
    found = {(r["block"], r["path"], r["batch_size"]): r["ratio"] for r in both["rows"]}
    assert found == {
        ("none", "naive", 1): 1.0,
        ("ab", "naive", 1): 1.2,
        ("ab", "ours", 1): 1.05,
        ("ab", "ours", 16): 1.03,
    }
    other = {**new, "device": "another"}
    assert fast_path.merged(RESULT, other) == other


def test_the_documents_get_the_figures_from_the_json(fast_path):
    text = "a\n<!-- measured x -->\nold\n<!-- end -->\nb\n<!-- measured x:line -->\n<!-- end -->\n"
    text = text.replace("-->\n<!-- end", "-->\nold\n<!-- end")
    assert fast_path.filled(text, {}) == text
    new = fast_path.filled(text, {"x": RESULT})
    assert "| ab | 1.200 (1.190 to 1.210) | 1.040 (1.030 to 1.050) | 16 of 16 |" in new
    assert "A processor, 2 threads, torch 2.15.0, 9 rounds" in new
    assert "53 convolutions are frozen; 16 of them add a shortcut." in new
    assert " takes 1.04 times at batch 1\n" in new
    assert "\nold\n" not in new
    assert fast_path.filled(new, {"x": RESULT}) == new


def test_the_documents_hold_what_the_json_holds(fast_path):
    done = json.loads((ROOT / "benchmarks" / "fast_path.json").read_text())
    for document in fast_path.DOCUMENTS:
        text = document.read_text()
        assert fast_path.MARKS.search(text), f"{document.name} has no place for figures"
        assert fast_path.filled(text, done) == text, "run benchmarks/fast_path.py --write"


# --- other people's trainers


class Fails:
    """A trainer of which one step loses a gate, and then there is an error."""

    @staticmethod
    def steps(folder):
        steps = [("boost", 3, 0.0), ("train", 2, None), ("save", 3, 0.5)]
        for step, gates, difference in steps:
            row = {"trainer": "t", "step": step, "gates": gates, "expected": 3}
            row |= {"difference": difference, "test": "t", "note": ""}
            yield SimpleNamespace(**row, _asdict=lambda row=row: row)
        raise OSError(f"no file in {folder}")


def test_a_step_that_fails_is_a_row(other_trainers, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(other_trainers.importlib, "import_module", lambda name: Fails)
    found = list(other_trainers.rows("fails", tmp_path))
    assert [row["why not"] for row in found] == [
        "",
        "2 of 3 gates are left",
        "the outputs differ by 5.0e-01",
        "OSError: no file in FOLDER",
    ]
    assert "Traceback" in capsys.readouterr().err
    assert all(other_trainers.line(row) for row in found)
    written = load("docs", "write_trainers.py")
    result = {"command": "c", "versions": {"p": "1"}, "processor": "x", "rows": found}
    page = written.page(f"a\n{written.BEGIN}{written.END}b\n", {"fails": result})
    assert "**2 of 3**: 2 of 3 gates are left" in page
    assert "OSError: no file in FOLDER" in page
    assert page.startswith("a\n")
    assert page.endswith("b\n")


def test_the_page_of_trainers_holds_what_the_json_holds():
    written = load("docs", "write_trainers.py")
    text = written.PAGE.read_text()
    results = json.loads(written.RESULTS.read_text())
    assert written.page(text, results) == text, "run python docs/write_trainers.py"
    rows = [row for result in results.values() for row in result["rows"]]
    tests = "".join(file.read_text() for file in sorted((ROOT / "tests").rglob("test_*.py")))
    for row in rows:
        if "test" in row:
            file, _, name = row["test"].partition("::")
            assert (ROOT / file).is_file(), row["test"]
            assert f"def {name}" in tests, row["test"]


def test_the_page_shows_the_gains_in_other_trainers():
    folder = ROOT / "benchmarks"
    if not folder.is_dir():
        pytest.skip("the repository's benchmarks are not here")
    spec = importlib.util.spec_from_file_location("gains", folder / "other_trainers_gain.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gains"] = module  # for its dataclasses
    spec.loader.exec_module(module)
    result = json.loads((folder / "other_trainers_gain.json").read_text())
    page = (ROOT / "docs" / "trainers" / "ultralytics.md").read_text()
    assert module.table(result) in page


def test_the_bound_of_a_training_step_is_told_by_kinds_of_layers(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    roofline = load("benchmarks", "training_roofline.py")
    given = SimpleNamespace(model="resnet8", block="none", batch=2)
    found = roofline.layers(given, 32)
    kinds = [roofline.kind_of(module, shape) for _, module, shape in found]
    assert kinds[0] == "conv 3x3, 3 to 16, 32x32, stride 1"
    assert "conv 3x3, 16 to 32, 32x32, stride 2" in kinds
    assert kinds.count("norm, 64 channels, 8x8") == 2
    result = {
        **{"model": "resnet8", "machine": "A processor", "torch": "2.15.0", "batch": 2},
        **{"threads": 2, "rounds": 5},
        "seconds": {"plain": 0.3, "ours, compiled": 0.2, "convolutions": 0.15},
        "layers": {kinds[0]: {"layers": 1, "seconds": 0.05, "macs": 10**9}},
    }
    text = roofline.tables(result)
    assert "| convolutions | 150 | 2.00 |" in text
    assert f"| {kinds[0]} | 1 | 50.0 | 25.0% | 20 |" in text


def test_the_documents_show_what_the_loops_of_a_training_step_read_and_write():
    traffic = load("benchmarks", "training_traffic.py")
    result = json.loads((ROOT / "benchmarks" / "training_traffic.json").read_text())
    assert traffic.table(result) in (ROOT / "docs" / "speed.md").read_text()
    # a fused block reads and writes what the unboosted one does, and values per channel
    for block in ("ab", "se"):
        bare, fused = (
            sum(result["rows"][f"resnet56, {name}, fused"][f"{way}, loops"] for way in WAYS)
            for name in ("none", block)
        )
        assert fused < 1.01 * bare


WAYS = ("forward", "backward")
