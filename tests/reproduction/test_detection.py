"""Table 9: detectors that start from classification networks, on COCO."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from accuracy_booster.cli import main
from accuracy_booster.detection import DetectConfig
from accuracy_booster.files import unpack
from accuracy_booster.reproduction import TABLES, Places, Spec, Table, known_data, plan
from accuracy_booster.reproduction.budgets import BUDGETS, STANDARD
from accuracy_booster.reproduction.comparing import compare_table
from accuracy_booster.reproduction.paper_tables import DETECTORS, detectors
from accuracy_booster.reproduction.performing import perform
from accuracy_booster.reproduction.places import LAYOUTS
from accuracy_booster.reproduction.record import Record, in_words
from accuracy_booster.reproduction.result_files import read_records, write_record
from accuracy_booster.reproduction.report import write_report
from accuracy_booster.reproduction.specs import CODE_VERSION, spec_of
from accuracy_booster.reproduction.status_report import status
from accuracy_booster.reproduction.table import AP, AP50, TOP1
from accuracy_booster.reproduction.time_left import seconds_of
from accuracy_booster.reproduction.verdicts import CONFIRMED
from accuracy_booster.training.run_directory import Run

NINE = TABLES["9"]
ROWS = detectors("timm/test_resnet", (DETECTORS[0], DETECTORS[2]), "pictures")
SMALL = {"head": "c4", "min_size": (48,), "max_size": 64, "anchor_sizes": (8, 16, 32)}
PROPOSALS = {"rpn_post_nms_top_n_train": 16, "rpn_post_nms_top_n_test": 100}
TINY = Table(
    *("n", "tiny detectors", "shapes", ROWS),
    **{"seeds": 1, "measures": AP, "settings": {**SMALL, **PROPOSALS, "box_score_thresh": 0.0}},
)
SHORT = {  # of the two data sets
    "shapes": {
        "short": {
            "epochs": 3,
            "batch_size": 2,
            "lr": 0.02,
            "box_batch_size_per_image": 8,
            "warmup_steps": 0,
        }
    },
    "pictures": {"short": {"epochs": 1, "batch_size": 4, "image_size": 32, "workers": 0}},
}


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 80, (40, 56, 3), dtype=np.uint8)
    pixels[8:28, 10:40, seed % 2] = 240
    return Image.fromarray(pixels)


def coco(folder, years=("2017",), sizes=(4, 3)):
    """A data set in COCO's format: red and green boxes, one an image."""
    (folder / "annotations").mkdir(parents=True)
    for year in years:
        for split, size in zip(("train", "val"), sizes, strict=True):
            (folder / f"{split}{year}").mkdir()
            images, boxes = [], []
            for i in range(size):
                picture(i).save(folder / f"{split}{year}" / f"{i}.png")
                images.append({"id": i, "file_name": f"{i}.png", "height": 40, "width": 56})
                box = {"bbox": [10, 8, 30, 20], "area": 600, "iscrowd": 0}
                boxes.append({"id": i, "image_id": i, "category_id": 1 + i % 2, **box})
            kinds = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
            content = {"images": images, "annotations": boxes, "categories": kinds}
            path = folder / "annotations" / f"instances_{split}{year}.json"
            path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _schedules():
    with pytest.MonkeyPatch.context() as patch:
        for name, budgets in SHORT.items():
            patch.setitem(STANDARD, name, budgets)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny table: both classification networks, and both detectors that start from them."""
    folder = tmp_path_factory.mktemp("made")
    coco(folder / "data" / "shapes")
    for split, size in (("train", 4), ("test", 2)):
        for k, name in enumerate(("green", "red")):
            (folder / "data" / "pictures" / split / name).mkdir(parents=True)
            for i in range(size):
                path = folder / "data" / "pictures" / split / name / f"{i}.png"
                picture(2 * i + k).save(path)
    places = Places(folder / "results", folder / "work", folder / "data")
    for spec in plan([TINY], "short", 1):
        perform(spec, places)
    return places


def of(label: str, table: Table = TINY, budget: str = "short") -> Spec:
    return spec_of(table, next(row for row in table.rows if row.label == label), budget, 0)


# --- declared


def test_printed_numbers_are_the_papers(shared):
    text = (shared / "paper" / "accuracy_booster.md").read_text()
    lines = text[text.index("\nTable 9. ") :].split("\n\n")[1].splitlines()[1:]
    cells = [line.replace("<b>", "").replace("</b>", "").split("\t")[1:] for line in lines]
    printed = [float(value) for line in cells for value in line]
    assert printed == [row.printed for row in NINE.rows]
    assert [row.cell for row in NINE.rows] == [AP50, AP] * 3


@pytest.mark.parametrize("budget", ["paper", "short"])
def test_each_detector_starts_from_the_network_of_table_2_with_its_block(budget):
    table_2 = {spec.block: spec for spec in plan([TABLES["2"]], budget, 1) if spec.block != "cbam"}
    table_2["none"] = of("no block", TABLES["2"], budget)
    runs = plan([NINE], budget, 1)
    assert [spec.measures for spec in runs] == [TOP1, AP] * 3
    for parent, detector in zip(runs[::2], runs[1::2], strict=True):
        assert parent.key == detector.parent.key == table_2[detector.block].key
        assert isinstance(detector.config, DetectConfig)
        assert (detector.config.backbone, detector.config.head) == ("resnet50v1", "c4")
        again = Spec.from_json(json.loads(json.dumps(detector.to_json())))
        assert (again.key, again.config, again.name) == (
            *(detector.key, detector.config, detector.name),
        )


def test_the_hash_is_of_the_detector_and_of_what_it_starts_from(monkeypatch):
    row = NINE.rows[-1]

    def hash_of(**more) -> str:
        return spec_of(replace(NINE, **more), row, "short", 0).hash

    first = hash_of()
    assert hash_of(settings={**NINE.settings, "workers": 0}) == first
    assert hash_of(settings={**NINE.settings, "head": "fpn", "anchor_sizes": None}) != first
    changed = {**STANDARD["imagenet"]["short"], "epochs": 17}
    monkeypatch.setitem(STANDARD["imagenet"], "short", changed)
    assert hash_of() != first
    assert len({spec_of(NINE, row, budget, 0).hash for budget in BUDGETS}) == 3


def test_a_row_is_compared_in_its_own_number():
    found = {row.label: [other.label for other in NINE.references_of(row)] for row in NINE.rows}
    assert found["AB, AP50"] == ["no block, AP50", "SE, AP50"]
    assert found["SE, AP"] == ["no block, AP"]
    assert found["no block, AP"] == []


# --- made


def test_a_detector_starts_where_the_classification_network_ended(made):
    spec = of("AB, AP")
    run, config = Run.open(made.run(spec), kind=DetectConfig)
    assert config.weights == str(made.run(spec.parent))
    begun = unpack(made.run(spec.parent) / "model.safetensors").tensors
    ended = unpack(run.path / "model.safetensors").tensors
    # the stem is frozen, so it is as it came
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


def test_a_result_holds_cocos_numbers(made):
    found = read_records(made.results)
    assert not found.left_out
    assert len(found.found) == 4
    for label in ("no block, AP", "AB, AP"):
        record = found.found[of(label).key]
        run, _ = Run.open(made.run(record.spec), kind=DetectConfig)
        told = {k: v for k, v in run.info["test"].items() if v is not None}
        assert told.pop("images") == record.about["images"] == 3
        assert record.values == told
        assert 0 < record.values[AP] < record.values[AP50]
        assert [row["epoch"] for row in record.epochs] == [1, 2, 3]
        assert record.data["images"] == {"train": 4, "test": 3}
        assert f"AP {record.values[AP]:.1f} %, AP50" in in_words(record)
        assert seconds_of(record.spec, found) == pytest.approx(record.seconds, abs=0.1)
    (progress,) = status([TINY], made).tables
    assert (progress.done, progress.runs) == (4, 4)


def test_rows_of_one_detector_are_its_two_numbers(made):
    records = read_records(made.results)
    result = compare_table(TINY, "short", records)
    by_label = {row.row.label: row for row in result.rows}
    for name, cell in (("AP50", AP50), ("AP", AP)):
        plain, boosted = (records.found[of(f"{b}, {name}").key] for b in ("no block", "AB"))
        assert by_label[f"AB, {name}"].by_seed == {0: boosted.values[cell]}
        (pair,) = by_label[f"AB, {name}"].pairs
        assert pair.difference.by_seed[0] == boosted.values[cell] - plain.values[cell]
        assert pair.printed == {"AP50": 2.0, "AP": 1.6}[name]
    assert len({pair.key for pair in result.pairs}) == 2


def test_a_finished_detector_is_not_trained_again(made, tmp_path):
    spec = of("AB, AP50")
    before = (made.run(spec) / "model.safetensors").stat().st_mtime_ns
    perform(spec, replace(made, results=tmp_path))
    assert (made.run(spec) / "model.safetensors").stat().st_mtime_ns == before
    again, first = (read_records(p).found[spec.key] for p in (tmp_path, made.results))
    assert again.values == first.values
    assert again.epochs == first.epochs


def test_status_tells_the_epochs_of_a_detector_under_way(made, monkeypatch):
    monkeypatch.setattr(
        "accuracy_booster.reproduction.status_report.running", lambda places: made.run(of("AB, AP"))
    )
    found = status([TINY], made)
    assert (found.epoch, found.epochs) == (3, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({AP: 101.0}, "not from 0 to 100"),
        ({AP: 99.0, AP50: 98.0}, "its AP is 99, and its AP50, which is never less, 98"),
        ({AP50: 99.0, AP: 98.0}, "its AP is 98, and its last epoch's"),
        ({"top1": 1.0}, "does not hold AP, AP50"),
    ],
)
def test_a_result_that_cannot_be_is_left_out(made, tmp_path, change, reason):
    record = read_records(made.results).found[of("AB, AP").key]
    write_record(tmp_path, replace(record, values={**record.values, **change}))
    (told,) = read_records(tmp_path).left_out.values()
    assert reason in told


# --- told


def test_the_report_sets_our_numbers_beside_the_papers(tmp_path):
    code = {"version": CODE_VERSION}
    for row in NINE.rows[::2]:
        for seed in range(5):
            spec = spec_of(NINE, row, "paper", seed)
            shift = {"none": 0.0, "se": 1.2, "ab": 1.6}[row.block] + 0.01 * seed * len(row.block)
            values = {AP50: 45.0 + shift + 0.1 * seed, AP: 25.0 + shift + 0.1 * seed}
            epochs = [{"test_ap": values[AP]}] * spec.config.epochs
            write_record(tmp_path / "r", Record(spec, values, epochs, 60.0, about={"code": code}))
    report = write_report(read_records(tmp_path / "r"), tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert not report.left_out
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if "AB, AP |" in line]
    ours, paper, verdict = lines[0][2], lines[0][5], lines[0][6]
    assert lines[0][:2] == ["AB, AP", "26.7"]
    assert ours.startswith("26.84")
    assert paper.startswith("+1.6")
    assert verdict == CONFIRMED
    assert "each detector starts from the network of Table 2 with the same block" in text
    assert "18 epochs, batches of 16" in text
    assert "1,000 steps of warm-up" in text
    assert "points of AP and AP50" in (tmp_path / "gain.svg").read_text()


def test_a_detector_needs_the_data_of_both_trainings(made, tmp_path, monkeypatch):
    monkeypatch.setitem(LAYOUTS, "pictures", "folders of images")
    (tmp_path / "shapes").symlink_to(made.data / "shapes")
    spec = of("AB, AP")
    assert made.missing_for(spec) == ""
    other = replace(made, data=tmp_path)
    assert "the data set pictures is not at hand" in other.missing_for(spec)
    parent, detector = plan([NINE], "short", 1)[:2]
    assert "imagenet is not at hand" in Places().missing_for(parent)
    assert "coco is not at hand" in Places().missing_for(detector)


def test_a_folder_of_other_images_is_no_coco(tmp_path):
    coco(tmp_path / "coco")
    with pytest.raises(ValueError, match=r"coco is not at hand \(.* has 2 classes, 4 training and"):
        Places(data=tmp_path).data_of("coco")


def test_of_several_years_the_papers_is_taken(tmp_path, monkeypatch):
    known = known_data.Known(2, 4, 3)
    monkeypatch.setattr(known_data, "COCO", {"2014": known, "2017": known})
    folder = coco(tmp_path / "coco", ("2017", "2014"))
    found = Places(data=tmp_path).data_of("coco")
    assert found == {
        "data": str(folder),
        "train_annotations": str(folder / "annotations" / "instances_train2014.json"),
        "val_annotations": str(folder / "annotations" / "instances_val2014.json"),
    }


def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "run", "9"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("accuracy-booster: error: the data set imagenet is not at hand")


def test_smoke_starts_from_random_weights_on_a_small_data_set():
    for spec in plan([NINE], "smoke", 1):
        assert spec.parent is None
        assert spec.config.data == "coco_tiny"
        assert spec.config.epochs == 1
        assert spec.config.norms == "normal"
