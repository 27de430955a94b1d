"""Detectors measured over images and processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from support.coco_numbers import Results, Truth, jittered, random_case
from torch import nn

from accuracy_booster.detection.measuring import measure
from accuracy_booster.detection.metrics import DetectionMetrics, coco_metrics


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
