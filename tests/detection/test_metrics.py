"""COCO's numbers against pycocotools, and detectors measured over images and processes."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from accuracy_booster.detection.measuring import measure
from accuracy_booster.detection.metrics import NUMBERS, DetectionMetrics, coco_metrics

Truth = dict[str, Any]
Results = list[dict[str, Any]]


def random_case(seed: int, images: int = 12, crowds: bool = False, most: int = 12) -> Truth:
    """Boxes of all three COCO sizes; ids with gaps; some images have none, so has a category."""
    draw = np.random.default_rng(seed)
    truth: Truth = {
        "images": [{"id": 7 * i + 3, "height": 400, "width": 400} for i in range(images)],
        "categories": [{"id": c, "name": f"class {c}"} for c in (1, 4, 9, 90)],
        "annotations": [],
    }
    for image in truth["images"]:
        for _ in range(draw.integers(0, most)):
            size = draw.choice([12, 60, 180], 2) * draw.uniform(0.6, 1.4, 2)
            box = [*draw.uniform(0, 200, 2).tolist(), *size.tolist()]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": int(draw.choice([1, 4, 9])),
                    "bbox": box,
                    "area": float(size.prod() * draw.uniform(0.4, 1)),
                    "iscrowd": int(crowds and draw.random() < 0.3),
                }
            )
    return truth


def jittered(truth: Truth, seed: int, noise: float = 0.1, per_box: int = 2) -> Results:
    """Boxes near the true ones, some of another category, in a random order."""
    draw = np.random.default_rng(seed)
    known = [category["id"] for category in truth["categories"]]
    results = []
    for a in truth["annotations"]:
        for _ in range(per_box):
            x, y, w, h = a["bbox"]
            dx, dy, dw, dh = draw.normal(0, noise, 4)
            wrong = draw.random() < 0.2
            results.append(
                {
                    "image_id": a["image_id"],
                    "category_id": int(draw.choice(known)) if wrong else a["category_id"],
                    "bbox": [x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)],
                    "score": float(draw.random()),
                }
            )
    return [results[i] for i in draw.permutation(len(results))]


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


# --- measuring


@dataclass
class OneBatch:
    images: list[torch.Tensor]
    targets: list[dict[str, torch.Tensor]]
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)


class Split:
    """A split in memory: what `measure` asks of a loader and of the data."""

    name, batch_size = "boxes", 2

    def __init__(self, truth: Truth, unreadable: tuple[int, ...] = ()):
        self.known, self.unreadable = truth, unreadable
        self.dataset = truth["images"]
        self.category_ids = sorted(category["id"] for category in truth["categories"])
        self.classes = [f"class {number}" for number in self.category_ids]

    def truth(self, split: str) -> Truth:
        assert split == "val"
        return self.known

    def batches(
        self, epoch: int, *, rank: int, world: int, device: torch.device
    ) -> Iterator[OneBatch]:
        mine = range(len(self.dataset))[rank::world]
        for start in range(0, len(mine), self.batch_size):
            batch = OneBatch([], [])
            for i in mine[start : start + self.batch_size]:
                if i in self.unreadable:
                    batch.unreadable[i] = f"cannot read the image number {i}"
                    continue
                number = self.dataset[i]["id"]
                # the image tells the stand-in for a detector which one it is
                batch.images.append(torch.full((3, 4, 5 + i % 3), number, dtype=torch.uint8))
                batch.targets.append({"image_id": torch.tensor([number])})
            yield batch


class Fixed(nn.Module):
    """A detector whose detections of an image are known; one pixel's value is the image's id."""

    def __init__(self, results: Results, category_ids: list[int]):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.by_image: dict[int, Results] = {}
        for result in results:
            self.by_image.setdefault(result["image_id"], []).append(result)
        self.category_ids = category_ids
        self.seen: list[tuple[bool, bool, float]] = []

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        out = []
        for image in images:
            self.seen.append((self.norm.training, torch.is_grad_enabled(), float(image.max())))
            found = self.by_image.get(round(float(image[0, 0, 0]) * 255), [])
            boxes = torch.tensor([r["bbox"] for r in found]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            labels = [self.category_ids.index(r["category_id"]) + 1 for r in found]
            scores = torch.tensor([r["score"] for r in found])
            out.append({"boxes": boxes, "labels": torch.tensor(labels).long(), "scores": scores})
        return out


def as_float32(results: Results) -> Results:
    """The detections as a network gives them: corners and scores in float32."""
    out = []
    for r in results:
        box = torch.tensor([r["bbox"]])
        box[:, 2:] += box[:, :2]
        x1, y1, x2, y2 = box[0].tolist()
        score = float(torch.tensor(r["score"]))
        out.append({**r, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    return out


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def measured(split: Split, model: nn.Module, accelerator: Accelerator, **options: Any):
    return measure(model, split, split, "val", accelerator, **options)  # type: ignore[arg-type]


def test_measuring_gives_the_numbers_of_the_detections(accelerator: Accelerator) -> None:
    truth = random_case(20)
    results = jittered(truth, 20)
    split = Split(truth)
    model = Fixed(results, split.category_ids)
    model.norm.eval()
    batches: list[int] = []
    ours = measured(split, model, accelerator, on_batch=lambda batch: batches.append(len(batch)))
    assert ours == coco_metrics(truth, as_float32(results))
    assert ours.ap > 1
    assert batches == [2] * 6
    assert [(training, grad) for training, grad, _ in model.seen] == [(False, False)] * 12
    assert max(value for *_, value in model.seen) <= 1
    assert (model.training, model.norm.training) == (True, False)  # as they were


def test_modes_are_restored_after_an_error(accelerator: Accelerator) -> None:
    split = Split(random_case(21))

    class Fails(Fixed):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            raise RuntimeError("no")

    model = Fails([], split.category_ids)
    model.norm.eval()
    with pytest.raises(RuntimeError, match="no"):
        measured(split, model, accelerator)
    assert (model.training, model.norm.training) == (True, False)


def test_images_that_cannot_be_read_are_left_out(accelerator: Accelerator) -> None:
    truth = random_case(22)
    results = jittered(truth, 22)
    split = Split(truth, unreadable=(0, 1, 5))  # the first batch is empty
    left = {image["id"] for i, image in enumerate(truth["images"]) if i not in split.unreadable}
    ours = measured(split, Fixed(results, split.category_ids), accelerator)
    kept = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in left],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in left],
    }
    assert ours.images == 9
    assert ours == coco_metrics(kept, as_float32([r for r in results if r["image_id"] in left]))
    assert ours.ar100 > coco_metrics(truth, [r for r in results if r["image_id"] in left]).ar100


def test_no_image_can_be_read(accelerator: Accelerator) -> None:
    split = Split(random_case(23, images=3), unreadable=(0, 1, 2))
    with pytest.raises(ValueError, match="none of 3 images of boxes could be read; the first: can"):
        measured(split, Fixed([], split.category_ids), accelerator)


def test_only_the_best_detections_of_an_image_count(accelerator: Accelerator) -> None:
    truth = random_case(24)
    results = jittered(truth, 24, per_box=3)
    split = Split(truth)
    ours = measured(split, Fixed(results, split.category_ids), accelerator, max_detections=5)
    best: Results = []
    for image in truth["images"]:
        found = [r for r in results if r["image_id"] == image["id"]]
        best += sorted(found, key=lambda r: -r["score"])[:5]
    assert ours == coco_metrics(truth, as_float32(best))
    assert ours.ar100 < coco_metrics(truth, results).ar100


def test_a_detector_of_other_classes(accelerator: Accelerator) -> None:
    split = Split(random_case(25))
    model = Fixed(jittered(split.known, 25), [0, *split.category_ids])
    with pytest.raises(ValueError, match="gives label 5, and the data have 4 classes"):
        measured(split, model, accelerator)


@pytest.mark.parametrize("output", [torch.zeros(2, 10), [{"boxes": 0}] * 2])
def test_what_is_no_detector(accelerator: Accelerator, output: Any) -> None:
    class Classifier(nn.Module):
        def forward(self, images: list[torch.Tensor]) -> Any:
            return output

    with pytest.raises(ValueError, match=r"Classifier gives .* a detector gives a list"):
        measured(Split(random_case(26)), Classifier(), accelerator)


class _Share:
    """Process `rank` of `world`, whose gathering is done by hand."""

    device = torch.device("cpu")
    autocast = staticmethod(contextlib.nullcontext)

    def __init__(self, rank: int, world: int):
        self.process_index, self.num_processes = rank, world


def test_processes_share_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of processes, and in whatever order their detections are gathered."""
    import accelerate.utils

    from accuracy_booster.training import processes

    truth = random_case(27, images=7)
    results = [{**r, "score": round(r["score"] * 3) / 3} for r in jittered(truth, 27)]
    split = Split(truth, unreadable=(2,))
    monkeypatch.setattr(processes, "share_buffers", lambda model: None)

    class Stop(Exception):
        pass

    def collect(into: list[list[Any]], value: list[Any]) -> list[Any]:
        into.append(value)
        if len(into) % 2 == 0:
            raise Stop
        return value

    def run(rank: int, gather: Callable[[list[Any]], list[Any]]) -> DetectionMetrics:
        monkeypatch.setattr(accelerate.utils, "gather_object", gather)
        model = Fixed(results, split.category_ids)
        return measured(split, model, _Share(rank, 3))  # type: ignore[arg-type]

    shares: list[list[Any]] = []
    for rank in range(3):
        with pytest.raises(Stop):
            run(rank, partial(collect, shares))
    found, reasons = shares[::2], shares[1::2]
    assert [len(share) for share in found] == [3, 2, 1]
    assert [len(share) for share in reasons] == [0, 0, 1]
    alone = measured(split, Fixed(results, split.category_ids), _Share(0, 1))  # type: ignore[arg-type]
    for order in ((0, 1, 2), (2, 0, 1)):
        gathered = iter([[image for i in order for image in found[i]], reasons[2]])
        assert run(0, lambda value, gathered=gathered: next(gathered)) == alone
