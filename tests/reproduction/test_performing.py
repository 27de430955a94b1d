"""What one run comes to, for each kind of run, and how it continues."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.detector_runs import TINY_DETECTORS, detector_spec
from support.gate_runs import MERGING, ZEROING, gates_spec
from support.runs import ROWS, TINY, places, specs

import accuracy_booster as ab
from accuracy_booster.detection import DetectConfig
from accuracy_booster.files import hash_of, unpack
from accuracy_booster.reproduction import Table, performing, plan, read_records, work
from accuracy_booster.reproduction.performing import perform
from accuracy_booster.reproduction.record import in_words
from accuracy_booster.reproduction.status_report import status
from accuracy_booster.reproduction.table import AP, AP50, TIME
from accuracy_booster.reproduction.time_left import seconds_of
from accuracy_booster.training.run_directory import Run


def test_a_detector_starts_from_the_trained_classifier(made_detectors):
    spec = detector_spec("AB, AP")
    run, config = Run.open(made_detectors.run(spec), kind=DetectConfig)
    assert config.weights == str(made_detectors.run(spec.parent))
    begun = unpack(made_detectors.run(spec.parent) / "model.safetensors").tensors
    ended = unpack(run.path / "model.safetensors").tensors
    # the stem is frozen, so it has not changed
    frozen = [n for n in begun if n.startswith(("conv1", "bn1")) and "num_batches" not in n]
    assert frozen
    for name in frozen:
        assert ended[f"backbone.body.{name}"].equal(begun[name])
    # the norms of gates are frozen too, also in the last stage, which is the box head
    gates = [name for name in begun if "recalibrate" in name and "running_mean" in name]
    assert any(name.startswith("layer4") for name in gates)
    for name in gates:
        place = "roi_heads.box_head" if name.startswith("layer4") else "backbone.body"
        assert ended[f"{place}.{name}"].equal(begun[name])


def test_a_result_holds_cocos_numbers(made_detectors):
    found = read_records(made_detectors.results)
    assert not found.left_out
    assert len(found.found) == 4
    for label in ("no block, AP", "AB, AP"):
        record = found.found[detector_spec(label).key]
        run, _ = Run.open(made_detectors.run(record.spec), kind=DetectConfig)
        told = {k: v for k, v in run.info["test"].items() if v is not None}
        assert told.pop("images") == record.about["images"] == 3
        assert record.values == told
        assert 0 < record.values[AP] < record.values[AP50]
        assert [row["epoch"] for row in record.epochs] == [1, 2, 3]
        assert record.data["images"] == {"train": 4, "test": 3}
        assert f"AP {record.values[AP]:.1f} %, AP50" in in_words(record)
        assert seconds_of(record.spec, found) == pytest.approx(record.seconds, abs=0.1)
    (progress,) = status([TINY_DETECTORS], made_detectors).tables
    assert (progress.done, progress.runs) == (4, 4)


def test_a_finished_detector_is_not_trained_again(made_detectors, tmp_path):
    spec = detector_spec("AB, AP50")
    before = (made_detectors.run(spec) / "model.safetensors").stat().st_mtime_ns
    perform(spec, replace(made_detectors, results=tmp_path))
    assert (made_detectors.run(spec) / "model.safetensors").stat().st_mtime_ns == before
    again, first = (read_records(p).found[spec.key] for p in (tmp_path, made_detectors.results))
    assert again.values == first.values
    assert again.epochs == first.epochs


def test_a_run_starts_from_the_network_of_the_other_run(made_gates):
    spec = gates_spec(MERGING, "ungated, more")
    _, config = Run.open(made_gates.run(spec))
    assert config.weights == str(made_gates.run(gates_spec(MERGING, "ungated")))


def test_zeroed_channels_give_the_accuracies_of_an_inspection(made_gates):
    spec = gates_spec(ZEROING, "lowest 25 %")
    record = read_records(made_gates.results).found[spec.key]
    found = ab.inspect(made_gates.run(spec.parent), percents=(25,))
    cells = {cell.which: cell.outcome.top1 for cell in found.zeroed}
    for which in ("highest", "lowest", "random"):
        assert record.values[f"{which} 25"] == cells[which]
    assert record.values["frozen"] == found.all_frozen.top1
    assert record.values["top1"] == found.top1
    layer = found.gates[found.layer]
    assert record.about["figure_3"]["mean_weights"] == [round(float(w), 4) for w in layer.mean]


def test_gates_of_a_diverged_network_are_not_measured(tmp_path):
    table = replace(ZEROING, settings={"lr": 1e30})
    spec, here = specs(table)[1], places(tmp_path)
    perform(spec, here)
    record = read_records(here.results).found[spec.key]
    assert record.diverged
    assert not record.values


def test_a_result_holds_the_numbers_of_its_run(made):
    found = read_records(made / "results")
    assert not found.left_out
    assert len(found.found) == 2
    for spec in specs():
        record = found.found[spec.hash, spec.seed]
        run = json.loads((made / "work" / spec.name / "run.json").read_text())
        assert record.values == {"top1": run["test"]["top1"], "top5": run["test"]["top5"]}
        assert record.epochs[-1]["test_top1"] == pytest.approx(record.values["top1"], rel=1e-4)
        assert len(record.epochs) == 1
        assert record.seconds == pytest.approx(run["seconds"], abs=0.1)
        assert record.data["name"] == "digits"
        assert record.data["images"] == {"train": 1437, "test": 360}
        assert record.data["marks"] == hash_of(run["data"])[:16]
        assert record.about["run"] == run["id"]
        assert record.about["packages"]["torch"] == run["versions"]["torch"]
        assert record.about["code"]["package"] == ab.__version__
        assert record.about["processor"]
        text = (made / "results" / f"{spec.name}.json").read_text()
        assert str(made) not in text, "a result names no path of the machine"
        assert len(text) < 10_000


def test_a_run_is_the_training_that_its_table_declares(made, tmp_path):
    (_, spec) = specs()
    record = read_records(made / "results").found[spec.hash, 0]
    again = ab.train(
        *("resnet8",), block="ab", data="digits", epochs=1, seed=0, output=str(tmp_path / "run")
    )
    assert again.test.top1 == record.values["top1"]


def test_a_finished_run_whose_result_is_lost_is_not_trained_again(made, tmp_path, monkeypatch):
    spec = specs()[0]
    there = replace(places(made), results=tmp_path / "results")
    monkeypatch.setattr(performing, "train", lambda *a, **k: _only_found(a, k))
    path = perform(spec, there)
    assert path.read_text().count(spec.hash)
    first = read_records(made / "results").found[spec.hash, 0]
    assert read_records(tmp_path / "results").found[spec.hash, 0].values == first.values


def _only_found(words, options):
    assert "resume" in options, "trained from the start"
    return ab.train(*words, **options)


def test_a_training_that_diverges_is_a_result_without_accuracy(tmp_path, in_this_process):
    table = replace(TINY, rows=ROWS[:1], settings={"lr": 1e30})
    here = places(tmp_path)
    (record,) = work(specs(table), here).done
    assert record.values == {}
    assert "not finite" in record.diverged
    (again,) = read_records(here.results).found.values()
    assert again.diverged == record.diverged
    assert work(specs(table), here).there == 1


def test_a_damaged_run_is_kept_and_made_again(made, tmp_path, capsys):
    spec = specs()[0]
    here = places(tmp_path)
    folder = here.run(spec)
    folder.parent.mkdir()
    for name in ("config.yaml", "run.json"):
        folder.mkdir(exist_ok=True)
        content = (made / "work" / spec.name / name).read_bytes()
        (folder / name).write_bytes(content if name == "config.yaml" else content[:50])
    perform(spec, here)
    first = read_records(made / "results").found[spec.hash, 0]
    assert read_records(here.results).found[spec.hash, 0].values == first.values
    assert (here.work / f"{spec.name}.damaged" / "run.json").stat().st_size == 50


def test_a_table_of_times_is_made(tmp_path, in_this_process):
    table = Table("t", "times", "", ROWS, measures=TIME)
    (spec,) = plan([table], "smoke", 1)
    spec = replace(spec, options={**spec.options, "input_size": (3, 8, 8)})
    (record,) = work([spec], places(tmp_path)).done
    assert set(record.values) == {"none", "ab"}
    assert all(0 < value < 10 for value in record.values.values())
