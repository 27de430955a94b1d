"""Batches are packed and unpacked exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.batches import comparable, sample
from support.coco import SIZES

from accuracy_booster.detection import DetectionBatch, load_coco
from accuracy_booster.detection.batches import pack

# M boxes of an image, H W space


pytestmark = pytest.mark.forks
CPU = torch.device("cpu")


def test_packing_is_exact():
    items = []
    for number, (height, width) in enumerate(SIZES):
        picture, target = sample(height, width)
        rows = slice(0, number)  # none for the first
        target |= {k: target[k][rows] for k in ("boxes", "labels", "area", "iscrowd")}
        target["iscrowd"] = target["iscrowd"] + number % 2
        target["image_id"] = torch.tensor([2**40 + number])
        items.append((number + 5, (picture, target), {number: f"reason {number}"}))
    items.insert(2, (9, None, {9: "lost"}))
    batch = pack(items).to(CPU)
    read = [item for item in items if item[1] is not None]
    assert batch.indices.tolist() == [number for number, _, _ in read]
    assert batch.unreadable == {**{n: f"reason {n}" for n in range(4)}, 9: "lost"}
    for i, (_, (picture, target), _) in enumerate(read):
        assert torch.equal(batch.images[i], picture)
        assert batch.images[i].is_contiguous()
        assert batch.targets[i].keys() == target.keys()
        for key, value in target.items():
            assert torch.equal(batch.targets[i][key], value)
            assert batch.targets[i][key].dtype == value.dtype
    parts = batch.parts(3)
    assert [len(part) for part in parts] == [2, 2]
    assert comparable([DetectionBatch(b.images, b.targets, b.indices) for b in parts]) == [
        *comparable([DetectionBatch(batch.images[:2], batch.targets[:2], batch.indices[:2])]),
        *comparable([DetectionBatch(batch.images[2:], batch.targets[2:], batch.indices[2:])]),
    ]
    assert comparable([batch.to(CPU)]) == comparable([batch])
    assert batch.to(CPU).unreadable == batch.unreadable


def test_a_worker_hands_over_shared_memory(make):
    """The worker puts the batch there itself: where it fails, the training hears of it."""
    loader = load_coco(make(), workers=1, batch_size=3).loaders["train"]

    def told(items):  # runs in the worker, before torch looks at the batch
        packed = pack(items)
        tensors = (packed.pixels, packed.numbers, packed.boxes)
        return replace(packed, unreadable={0: str([t.is_shared() for t in tensors])})

    loader.collate = told
    (batch,) = loader.batches(0)
    assert batch.unreadable == {0: "[True, True, True]"}
    assert loader.shape == (3, 30, 50)
