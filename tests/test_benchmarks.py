"""Benchmarks: their files keep old rows, and the documents show their figures."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.repository import ROOT

import accuracy_booster as ab


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)


def load(*path):
    file = ROOT.joinpath(*path)
    spec = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(file.parent)  # a benchmark imports what stands beside it
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fast_path():
    return load("benchmarks", "fast_path.py")


@pytest.fixture(scope="module")
def other_trainers():
    return load("benchmarks", "other_trainers.py")


@pytest.fixture(scope="module")
def publishing():
    return load("benchmarks", "publishing.py")


@pytest.fixture(scope="module")
def folded_networks():
    return load("benchmarks", "folded_networks.py")


def ratio(value):
    return {"ratio": value, "low": value - 0.01, "high": value + 0.01}


def row(block, path, of_stock, of_same, **changes):
    return {
        **{"mode": "infer", "batch_size": 1, "compile": True, "block": block, "path": path},
        **{"of_stock": ratio(of_stock), "of_same": ratio(of_same), "rounds": 9, "fast": 16},
        **{"places": 16, "paper": None, "memory_ratio": 1.0, "milliseconds": 34.0},
        "frozen": {"packed": 53, "plain": 0, "sums": 16, "relus": 49, "ours": 0},
        **changes,
    }


MACHINE = {"device": "A processor", "cores": 4, "threads": 2, "instructions": "AVX2"}
MACHINE |= {"torch": "2.15.0", "onednn": "3.5.1"}
RESULT = {
    **{"model": "resnet50", "input_size": [3, 224, 224], "machine": MACHINE, "rounds": 15},
    "rows": [
        row("none", "naive", 1.0, 1.1),
        row("none", "ours", 0.9, 1.0),
        row("ab", "naive", 1.2, 1.3),
        row("ab", "ours", 0.94, 1.02),
        row("timm/seresnet50", "rival", 1.18, 1.3, fast=0, places=0),
    ],
}


def test_the_benchmark_keeps_what_it_has_and_mixes_no_machines(fast_path):
    rows = [row("ab", "ours", 0.95, 1.05), row("ab", "ours", 0.93, 1.03, batch_size=16)]
    new = {**RESULT, "rows": rows}
    (both,) = fast_path.merged([RESULT], new)
    found = {(r["block"], r["path"], r["batch_size"]): r["of_same"]["ratio"] for r in both["rows"]}
    assert found == {
        ("none", "naive", 1): 1.1,
        ("none", "ours", 1): 1.0,
        ("ab", "naive", 1): 1.3,
        ("ab", "ours", 1): 1.05,
        ("ab", "ours", 16): 1.03,
        ("timm/seresnet50", "rival", 1): 1.3,
    }
    other = {**new, "machine": {**MACHINE, "device": "another"}}
    assert fast_path.merged([RESULT], other) == [RESULT, other]
    newer = {**new, "machine": {**MACHINE, "torch": "2.16.0"}}
    assert fast_path.merged([RESULT, other], newer) == [other, newer]


def test_the_documents_get_the_figures_from_the_json(fast_path, publishing):
    name = "resnet50-infer-compiled"
    text = f"a\n<!-- measured {name} -->\nold\n<!-- end -->\nb\n"
    text += f"<!-- measured {name}:summary -->\nold\n<!-- end -->\n"
    text += "<!-- measured of-others -->\nkept\n<!-- end -->\n"

    def filled(text, done):
        return publishing.filled(text, lambda name: fast_path.written(name, done))

    empty = filled(text, {})
    assert "\nold\n" not in empty
    assert empty.count(f"Not measured yet: `python benchmarks/fast_path.py --only {name}`") == 2
    new = filled(text, {name: [RESULT]})
    assert "batch 1: of stock | of the same treatment |" in new
    shown = "| ab | {} | 16 of 16 |"
    assert shown.format("folded | 0.940 (0.930 to 0.950) | 1.020 (1.010 to 1.030)") in new
    assert shown.format("as it is | 1.200 (1.190 to 1.210) | ") in new, "it had no treatment"
    assert "| none | folded | 0.900 (0.890 to 0.910) | 1.000 (0.990 to 1.010) |" in new
    assert "| timm/seresnet50 | as it is | 1.180 (1.170 to 1.190) |  |" in new
    machine = "A processor, 2 threads on 4 cores, AVX2, torch 2.15.0, oneDNN 3.5.1"
    assert f"{machine}, 9 rounds" in new
    assert "Stock: 53 of 53 convolutions have frozen weights" in new
    assert "(16 with the residual sum, 49 with the ReLU)." in new
    assert "Stock takes 34.0 ms at batch 1." in new
    line = new[new.index("compiled: time | batch 1 |") :]
    assert "| with a block (ab), folded: of stock | 0.94 |" in line
    assert "| the same: of the same treatment | 1.02 |" in line
    assert "| timm/seresnet50: of stock | 1.18 |" in line
    assert machine in line
    assert "\nold\n" not in new
    assert "\nkept\n" in new
    assert filled(new, {name: [RESULT]}) == new
    both = filled(text, {name: [RESULT, {**RESULT, "machine": {**MACHINE, "device": "Another"}}]})
    assert both.count("Another, 2 threads") == 2


def test_a_table_of_training_shows_the_memory(fast_path):
    rows = [
        row(r["block"], r["path"], 1.02, 1.01, mode="train", frozen=None) for r in RESULT["rows"]
    ]
    text = fast_path.table({**RESULT, "rows": rows})
    assert "| ab | fused | 1.020 (1.010 to 1.030) | 1.010 (1.000 to 1.020) | 1.000 | 16 of" in text
    assert "frozen" not in text


def test_each_run_has_a_place_in_the_documents(fast_path, publishing):
    texts = [document.read_text() for document in fast_path.DOCUMENTS]
    names = [match[2] for text in texts for match in publishing.MARKS.finditer(text)]
    runs = [name.partition(":")[0] for name in names]
    assert set(runs) == {*fast_path.RUNS, "folded-networks"}


def test_the_documents_hold_what_the_json_holds(fast_path, folded_networks, publishing):
    for benchmark in (fast_path, folded_networks):
        file = Path(benchmark.__file__).with_suffix(".json")
        done = json.loads(file.read_text()) if file.exists() else {}
        write = partial(benchmark.written, done=done)
        for document in fast_path.DOCUMENTS:
            text = document.read_text()
            written = publishing.filled(text, write)
            assert written == text, f"run {Path(benchmark.__file__).name} --write"


@pytest.mark.parametrize(
    "name", ["exported", "exported_bf16", "exported_kernel", "ahead_of_time", "int8"]
)
def test_the_page_on_exported_files_holds_what_the_json_holds(name, publishing, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = load("benchmarks", f"{name}.py")
    done = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())
    text = (ROOT / "docs" / "deploy.md").read_text()
    filled = publishing.filled(text, partial(benchmark.written, done=done))
    assert filled == text, f"run benchmarks/{name}.py --write"


def test_twenty_networks_have_a_row_each(folded_networks):
    assert len(folded_networks.NETWORKS) == 20
    done = {
        "timm/resnet18": [RESULT],
        "timm/dla34": [{"machine": MACHINE, "error": "ValueError: no such map"}],
        "timm/dpn68": [{**RESULT, "machine": {**MACHINE, "device": "Another"}}],
    }
    rows = [r for r in RESULT["rows"] if r["path"] != "rival" and r["block"] != "ab"]
    rows.append(row("ab", "ours", 0.94, 1.02, fast=7, places=8))
    done["timm/resnet18"] = [{**RESULT, "rows": rows}]
    text = folded_networks.table(done)
    shown = "| 34.0 | 0.940 (0.930 to 0.950) | 1.020 (1.010 to 1.030) | 0.900 (0.890 to 0.910) |"
    assert f"| timm/resnet18 | 7 of 8 {shown}" in text
    assert "not measured: ValueError: no such map" in text
    assert "7 of 8 gates take the fast path" in text
    assert "Another, 2 threads" in text


def test_one_network_of_the_twenty_can_be_boosted_and_folded(folded_networks):
    model = folded_networks.NETWORKS["timm/resnet18"]().eval()
    example = torch.zeros(1, 3, 32, 32)
    report = ab.fast_path(ab.fold(ab.boost(model, "ab", example=example), example=example))
    assert (report.taken, len(report.places)) == (8, 8)


def test_a_network_that_cannot_be_measured_is_a_row_that_says_why(folded_networks):
    def measured(code, seconds=60):
        return folded_networks.measured([sys.executable, "-c", code], seconds, MACHINE)

    assert measured("print('a line'); print('{\"rows\": []}')") == {"rows": []}
    failed = measured("import sys; sys.exit('ValueError: no map')")
    assert failed == {"machine": MACHINE, "error": "ValueError: no map"}
    late = measured("import time; time.sleep(60)", 0.3)
    assert late["error"] == "it took more than 0.005 minutes"


def test_a_reproduction_is_paused_meanwhile(publishing, tmp_path):
    paused = tmp_path / "paused"
    with publishing.nothing_else_running(str(tmp_path / "none")):
        assert not (tmp_path / "none").exists(), "without a work folder there is nothing to pause"
    with publishing.nothing_else_running(str(tmp_path)):
        assert paused.exists()
    assert not paused.exists()
    paused.touch()
    with publishing.nothing_else_running(str(tmp_path)):
        assert paused.exists()
    assert paused.exists(), "a pause of the user's stays"


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
    # in stage 3 of ResNet-164 the gate's product is a pass over the map
    for stage, most in ((1, 1.02), (2, 1.04), (3, 1.2)):
        bare, fused = (
            sum(
                result["rows"][f"resnet164 stage {stage}, {name}, fused"][f"{w}, loops"]
                for w in WAYS
            )
            for name in ("none", "ab")
        )
        assert fused < most * bare


WAYS = ("forward", "backward")
