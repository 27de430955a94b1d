"""COCO's numbers against pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.coco_numbers import Results, Truth, jittered, random_case

from accuracy_booster.detection.metrics import NUMBERS, DetectionMetrics, coco_metrics


def by_pycocotools(truth: Truth, results: Results) -> tuple[list[float], dict[str, float]]:
    """The 12 numbers and AP by class of the original, on copies: it changes what it is given."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = copy.deepcopy(truth)
        known.createIndex()
        evaluator = COCOeval(known, known.loadRes(copy.deepcopy(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = {c["id"]: c["name"] for c in truth["categories"]}
    by_class = {}
    for i, number in enumerate(evaluator.params.catIds):
        values = evaluator.eval["precision"][:, :, i, 0, 2]
        by_class[names[number]] = values[values > -1].mean() if (values > -1).any() else -1
    return evaluator.stats.tolist(), by_class


def check_equal(truth: Truth, results: Results) -> DetectionMetrics:
    """Ours are pycocotools' numbers, in %, None for -1."""
    ours = coco_metrics(truth, results)
    stats, by_class = by_pycocotools(truth, results)
    plain = {name: getattr(ours, name) for name in NUMBERS}
    as_coco = {name: -1 if v is None else v / 100 for name, v in plain.items()}
    assert as_coco == pytest.approx(dict(zip(NUMBERS, stats, strict=True)), rel=0, abs=1e-12)
    ours_by_class = {name: -1 if v is None else v / 100 for name, v in ours.by_class.items()}
    assert ours_by_class == pytest.approx(by_class, rel=0, abs=1e-12)
    return ours


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_random_boxes(seed: int, crowds: bool) -> None:
    truth = random_case(seed, crowds=crowds)
    ours = check_equal(truth, jittered(truth, seed))
    assert ours.ap is not None
    assert 1 < ours.ap < 99
    assert ours.images == 12
    assert ours.by_class["class 90"] is None  # it has no box


def test_numbers_of_real_boxes(shared: Path) -> None:
    file = shared / "data" / "coco_tiny" / "annotations" / "instances_val2017.json"
    truth = json.loads(file.read_text())
    assert any(a["iscrowd"] for a in truth["annotations"])
    assert check_equal(truth, jittered(truth, 0, noise=0.07)).ap50 > 10
    some = [r for r in jittered(truth, 1) if r["image_id"] % 3]  # images without predictions
    check_equal(truth, some)


def test_numbers_with_ties_of_scores() -> None:
    truth = random_case(5)
    results = [{**r, "score": round(r["score"] * 3) / 3} for r in jittered(truth, 5)]
    ours = check_equal(truth, results)
    assert ours.to_dict() != coco_metrics(truth, results[::-1]).to_dict()  # their order counts


def test_numbers_of_more_than_100_detections_in_an_image() -> None:
    truth = random_case(6, images=2, most=20)
    for a in truth["annotations"]:
        a["category_id"] = 4
    results = jittered(truth, 6, per_box=30)
    assert max(sum(r["image_id"] == i["id"] for r in results) for i in truth["images"]) > 100
    check_equal(truth, results)


def test_numbers_where_every_box_is_a_crowd() -> None:
    truth = random_case(7)
    for a in truth["annotations"]:
        a["iscrowd"] = 1
    ours = check_equal(truth, jittered(truth, 7))
    assert ours.ap is None
    assert set(ours.by_class.values()) == {None}


def test_without_detections_the_numbers_are_0() -> None:
    truth = random_case(8)
    ours = coco_metrics(truth, [])
    assert (ours.ap, ours.ar100, ours.by_class["class 4"]) == (0, 0, 0)
    assert ours.by_class["class 90"] is None
    empty = {**truth, "annotations": []}
    assert coco_metrics(empty, []).ap is None
    assert check_equal(empty, jittered(truth, 8)).ap is None


def test_perfect_detections_reach_100() -> None:
    truth = random_case(9)
    ours = coco_metrics(truth, [{**a, "score": 1} for a in truth["annotations"]])
    assert ours.ap == pytest.approx(100)


def test_what_is_given_stays_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    truth = random_case(10, crowds=True)
    results = jittered(truth, 10)
    before = copy.deepcopy((truth, results))
    ours = coco_metrics(truth, results)
    assert (truth, results) == before
    assert capfd.readouterr() == ("", "")
    assert set(ours.to_dict()) == {*NUMBERS, "images"}
    json.dumps(ours.to_dict(), allow_nan=False)


def test_ids_of_annotations_do_not_matter() -> None:
    """pycocotools takes a box of id 0 for one that nothing found."""
    truth = random_case(11)
    results = jittered(truth, 11)
    from_0 = copy.deepcopy(truth)
    for a in from_0["annotations"]:
        a["id"] -= 1
    assert coco_metrics(from_0, results) == check_equal(truth, results)


def test_area_and_iscrowd_may_be_left_out() -> None:
    truth = random_case(12)
    for a in truth["annotations"]:
        a["area"] = a["bbox"][2] * a["bbox"][3]
    results = jittered(truth, 12)
    bare = copy.deepcopy(truth)
    for a in bare["annotations"]:
        del a["area"], a["iscrowd"]
    assert coco_metrics(bare, results) == coco_metrics(truth, results)


def test_categories_of_one_name_are_told_apart() -> None:
    truth = random_case(13)
    truth["categories"][1]["name"] = truth["categories"][0]["name"]
    names = set(coco_metrics(truth, []).by_class)
    assert names == {"class 1 (1)", "class 1 (4)", "class 9", "class 90"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": float("nan")}, "score=nan; they must be finite"),
        ({"bbox": [0, 0, float("inf"), 1]}, "they must be finite"),
        ({"category_id": 2}, "category_id 2, which is none of the truth's 4"),
        ({"image_id": 1}, "image_id 1, which is none of the truth's 12"),
    ],
)
def test_detections_that_cannot_be_measured(change: dict[str, Any], says: str) -> None:
    truth = random_case(14)
    results = jittered(truth, 14)
    results[3] |= change
    with pytest.raises(ValueError, match=says):
        coco_metrics(truth, results)


def test_without_faster_coco_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ValueError, match=r'pip install "accuracy-booster\[detection\]"'):
        coco_metrics(random_case(0), [])


def test_a_truth_without_images() -> None:
    with pytest.raises(ValueError, match="the truth has 0 images"):
        coco_metrics({"images": [], "categories": [], "annotations": []}, [])
