"""Which annotations are used, clipped or left out."""

from __future__ import annotations

import copy
import json
import re

import pytest
from support.coco import box, boxes_of, content

from accuracy_booster.detection import load_coco
from accuracy_booster.detection.choices import AUGMENTS

# M boxes of an image, H W space


BAD = [
    (
        box(20, 999, 3, 1, 1, 2, 2),
        "have an image_id that is in no image, the first annotation 20 (image_id 999,",
    ),
    (box(20, 10, 4, 1, 1, 2, 2), "have a category_id that is in no category, the first"),
    (box(20, 10, 3, 1, 1, 0, 2), "have no area within the image, the first annotation 20"),
    (box(20, 10, 3, 1, 1, 2, -3), "have no area"),
    (box(20, 10, 3, 32, 1, 5, 5), "have no area"),
    (box(20, 10, 3, -9, 1, 9, 5), "have no area"),
    (box(20, 10, 3, 5, 1, 1e-6, 5), "have no area"),
    (box(20, 10, 3, 5, 1, 5, 5, area=-1), "have no area"),
    (box(20, 10, 3, 40, 1, 5, 5, iscrowd=1), "have no area"),
]


@pytest.mark.parametrize(("entry", "words"), BAD)
def test_bad_annotations(make, entry, words):
    """Left out of training and of the truth, told, and bounded."""
    bad = content()
    bad["annotations"].insert(0, entry)
    root = make(bad)
    data = load_coco(root, augment="none")
    line = f"train: 1 of 8 annotations {words}"
    assert len(data.notes) == 1
    assert data.notes[0].startswith(line)
    assert data.notes[0].endswith("they are left out")
    assert len(data.truth("train")["annotations"]) == 7
    assert boxes_of(data)[10].shape == (2, 4)
    told = re.escape(words)
    with pytest.raises(ValueError, match=f"^train: 1 annot.*bad_annotations=0: 1 of 8.*{told}"):
        load_coco(root, bad_annotations=0)
    load_coco(root, bad_annotations=1)


def test_bad_annotations_of_several_kinds_are_summed(make):
    bad = content(50)
    bad["annotations"] += [box(20, 999, 4, 1, 1, 0, 2), box(21, 50, 4, 1, 1, 0, 2)]
    root = make(val=bad)
    assert len(load_coco(root, bad_annotations=2).notes) == 2
    with pytest.raises(ValueError, match=r"^val: 2 annotations .* no image, .*; 1 .* no category"):
        load_coco(root, bad_annotations=1)


def test_boxes_are_clipped_and_told(make):
    over = content()
    over["annotations"].append(box(20, 10, 3, -4, 20, 10, 7.5))
    data = load_coco(make(over), augment="none")
    assert boxes_of(data)[10][-1].tolist() == [0, 20, 6, 24]
    assert data.notes == [
        "train: 1 boxes reach past the edge of their image, by up to 4 pixels, and are clipped; "
        "the first: annotation 20 (image_id 10, category_id 3, bbox [-4, 20, 10, 7.5])"
    ]
    assert data.truth("train")["annotations"][-1]["bbox"] == [-4, 20, 10, 7.5]


def test_crowd_boxes_are_measured_and_not_learned(make):
    data = load_coco(make(), augment="none")
    for split, id in (("train", 13), ("test", 53)):
        assert boxes_of(data, split)[id].tolist() == [[4, 4, 34, 24]]
        crowd = [a for a in data.truth(split)["annotations"] if a["iscrowd"]]
        assert [(a["image_id"], a["bbox"]) for a in crowd] == [(id, [0, 0, 50, 30])]
    assert all(not t["iscrowd"].any() for _, t in map(data.images["train"].__getitem__, range(4)))


def test_images_without_boxes(make):
    """Image 11 has none, image 13 a crowd's alone."""
    empty = content()
    empty["annotations"] = [a for a in empty["annotations"] if a["id"] not in (2, 5)]
    val = copy.deepcopy(empty)
    root = make(empty, val)
    data = load_coco(root)
    assert boxes_of(data).keys() == {10, 12}
    assert [t["id"] for t in data.truth("train")["images"]] == [10, 12]
    assert len(data.truth("train")["annotations"]) == 4
    assert len(data.notes) == 1
    assert "2 of 4 images have no box" in data.notes[0]
    assert "the first 0011.png" in data.notes[0]
    assert boxes_of(data, "test").keys() == {10, 11, 12, 13}
    data = load_coco(root, empty_images="keep")
    assert boxes_of(data)[11].shape == (0, 4)
    assert data.notes == []
    assert len(load_coco(root, training=False).images["train"]) == 4
    for augment in AUGMENTS:
        kept = load_coco(root, empty_images="keep", augment=augment, batch_size=4)
        batch = next(kept.loaders["train"].batches(0))
        empty_ones = {int(t["image_id"]): t["boxes"] for t in batch.targets}
        assert empty_ones[11].shape == empty_ones[13].shape == (0, 4)
    empty["annotations"] = []
    with pytest.raises(ValueError, match="train: none of 4 images has a box"):
        load_coco(make(empty))


def test_sub_folders_and_spellings(make):
    """file_name with a folder; names that the disk spells in another way (NFC, NFD)."""
    deep = content()
    deep["images"][0]["file_name"] = "a/b/x.png"
    deep["images"][1]["file_name"] = "Zoe\u0308.png"
    root = make(deep)
    deep["images"][1]["file_name"] = "Zo\u00eb.png"
    (root / "train2017" / "0012.png").rename(root / "train2017" / "\u00e9.png")
    deep["images"][2]["file_name"] = "e\u0301.png"
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(deep))
    data = load_coco(root)
    assert boxes_of(data).keys() == {10, 11, 12, 13}
    assert data.notes == []
