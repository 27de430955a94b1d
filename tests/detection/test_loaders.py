"""Loaders: order, shares of processes, unreadable images, classes, and marks."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from support.batches import comparable
from support.coco import boxes_of, content

from accuracy_booster.detection import load_coco
from accuracy_booster.errors import TrainingStopped

# M boxes of an image, H W space


pytestmark = pytest.mark.forks


def test_order_and_augmentation_belong_to_the_epoch(make):
    """The same with workers, from step k on, and in the shares of two processes."""
    root = make()
    options = {"augment": "ssd", "batch_size": 2}
    here = load_coco(root, **options).loaders["train"]
    whole = comparable(here.batches(3))
    assert len(whole) == 2
    assert comparable(load_coco(root, workers=2, **options).loaders["train"].batches(3)) == whole
    assert comparable(here.batches(3, start=1)) == whole[1:]
    assert comparable(here.batches(4)) != whole
    assert comparable(load_coco(root, seed=1, **options).loaders["train"].batches(3)) != whole
    shares = [comparable(here.batches(3, rank=rank, world=2)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        joined = [[*a, *b] for a, b in zip(shares[0][step], shares[1][step], strict=True)]
        assert joined == [[*column] for column in batch]
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    comparable(here.batches(3))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_test_split_is_shared_out(make):
    loader = load_coco(make()).loaders["test"]
    shares = [[b.indices.tolist() for b in loader.batches(0, rank=r, world=2)] for r in (0, 1)]
    assert shares == [[[0, 2]], [[1, 3]]]
    assert [len(images) for images, targets in loader] == [2, 2]


def test_small_training_split_makes_small_batches(make):
    loader = load_coco(make(), batch_size=64).loaders["train"]
    assert loader.batch_size == 4
    assert [len(batch) for batch in loader.batches(0)] == [4]
    loader = load_coco(make(), batch_size=3).loaders["train"]
    assert [len(batch) for batch in loader.batches(0)] == [3]  # never ragged


def test_marks_tell_what_changed(make, png, pixels):
    root = make()
    known = json.loads(json.dumps(load_coco(root).marks))
    data = load_coco(root)
    assert [data.difference(split, known[NAME[split]]) for split in NAME] == ["", "", ""]
    moved = content()
    moved["annotations"][0]["bbox"][0] += 0.5
    assert load_coco(make(moved)).difference("train", known["train"]) == (
        "other annotations in its 4 images"
    )
    make()
    file = root / "train2017" / "0012.png"
    file.write_bytes(png(pixels("other", 16, 16)))
    assert load_coco(root).difference("train", known["train"]) == (
        "other contents in the files of its 4 images"
    )
    file.write_bytes(png(pixels("other", 17, 16)))  # an unreadable one is counted instead
    assert load_coco(root).difference("train", known["train"]) == ""
    fewer = content()
    fewer["images"].pop()
    assert load_coco(make(fewer)).difference("train", known["train"]) == (
        "3 images and had 4 images"
    )


NAME = {"train": "train", "val": "test", "test": "test"}


def test_check_trainable(make):
    root = make()
    load_coco(root).check_trainable()
    with pytest.raises(ValueError, match=r"train split of .* has no images"):
        load_coco(root, splits=["val"]).check_trainable()


def test_coco_tiny(shared):
    data = load_coco(shared / "data" / "coco_tiny")
    assert (len(data.classes), data.category_ids[0], data.category_ids[-1]) == (80, 1, 90)
    for split, crowd in (("train", 6), ("val", 11)):
        file = shared / "data" / "coco_tiny" / "annotations" / f"instances_{split}2017.json"
        known = json.loads(file.read_text())
        truth = data.truth(split)
        assert [i["id"] for i in truth["images"]] == [i["id"] for i in known["images"]]
        keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
        for entry in known["annotations"]:
            entry["area"] = float(entry["area"])
        rows = [[{k: a[k] for k in keys} for a in d["annotations"]] for d in (truth, known)]
        assert rows[0] == rows[1]
        assert sum(a["iscrowd"] for a in truth["annotations"]) == crowd
        for id, corners in boxes_of(data, split.replace("val", "test")).items():
            mine = [a for a in known["annotations"] if a["image_id"] == id and not a["iscrowd"]]
            starts = torch.tensor([a["bbox"][:2] for a in mine])
            assert torch.equal(corners[:, :2], starts)  # in the file's order
    batch = next(data.loaders["test"].batches(0))
    assert [i.dtype for i in batch.images] == [torch.uint8] * 2
    assert not any("left out" in note for note in data.notes)


def test_val_ids_may_differ(make):
    val = content(50)
    for entry in val["categories"]:
        entry["id"] += 1000
    for entry in val["annotations"]:
        entry["category_id"] += 1000
    val["categories"].pop(0)  # bear: a val split may lack a class
    val["annotations"] = [a for a in val["annotations"] if a["category_id"] != 1090]
    data = load_coco(make(val=val))
    labels = [data.images["test"][i][1]["labels"].tolist() for i in range(4)]
    assert labels == [[2], [1], [1, 2], []]
    truth = data.truth("val")
    assert [a["category_id"] for a in truth["annotations"]] == [7, 3, 3, 7, 7]
    assert [c["id"] for c in truth["categories"]] == [3, 7, 90]


def test_unknown_category(make):
    val = content(50)
    val["categories"].append({"id": 1, "name": "zebra"})
    root = make(val=val)
    with pytest.raises(ValueError, match=r"^val: .*1 categories, zebra, .* of the train split"):
        load_coco(root)
    data = load_coco(root, splits=["val"], classes=["zebra", "bear", "fox", "dog", "cat"])
    assert data.classes == ("zebra", "bear", "fox", "dog", "cat")
    assert data.category_ids == [1, 90, 91, 7, 3]
    assert data.images["test"][0][1]["labels"].tolist() == [4, 2]
    with pytest.raises(ValueError, match=r"zebra, that are not among the classes given \(3\)"):
        load_coco(root, splits=["val"], classes=["bear", "dog", "cat"])
    with pytest.raises(ValueError, match="1 names twice"):
        load_coco(root, classes=["bear", "dog", "cat", "cat"])


def test_unreadable_images(make, png, pixels):
    """Replaced by the next one in training, left out in test; a reason for each kind."""
    root = make()
    for split, first in (("train2017", 10), ("val2017", 50)):
        (root / split / f"{first:04}.png").unlink()
        (root / split / f"{first + 1:04}.png").write_bytes(b"no image")
        (root / split / f"{first + 2:04}.png").write_bytes(png(pixels("x", 17, 16)))
    data = load_coco(root, batch_size=4, eval_batch_size=4, augment="none")
    assert [note.split(", the first")[0] for note in data.notes] == [
        "train: 1 of 4 image files are not there",
        "val: 1 of 4 image files are not there",
    ]
    assert "0010.png; they count as" in data.notes[0]
    (batch,) = data.loaders["train"].batches(0)
    assert [int(t["image_id"]) for t in batch.targets] == [13] * 4
    batch.check_trainable()
    (batch,) = data.loaders["test"].batches(0)
    assert batch.indices.tolist() == [3]
    reasons = [batch.unreadable[i] for i in range(3)]
    assert "0050.png: No such file" in reasons[0]
    assert "no image of a kind" in reasons[1]
    assert "it has 17 x 16 pixels, and its annotations are of 16 x 16" in reasons[2]
    assert len(data.truth("val")["images"]) == 4


def test_none_can_be_read(make):
    root = make()
    for file in (root / "train2017").iterdir():
        file.write_bytes(b"")
    batch = next(load_coco(root).loaders["train"].batches(0))
    assert len(batch) == 0
    assert [len(part) for part in batch.parts(2)] == [0]
    with pytest.raises(TrainingStopped, match=r"none of 4 images of a training batch .* empty"):
        batch.check_trainable()
    shutil.rmtree(root / "train2017")
    (root / "train2017").mkdir()
    with pytest.raises(ValueError, match=r"train: none of 4 image files is there.*train_images"):
        load_coco(root)


@pytest.mark.parametrize("option", [{"empty_images": "x"}, {"splits": ["x"]}, {"splits": []}])
def test_unknown_options_are_refused(option):
    with pytest.raises(ValueError, match=f"unknown {next(iter(option)).removesuffix('s')}"):
        load_coco("x", **option)
