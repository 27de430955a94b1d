"""COCO-format data: what is found, what is refused, and what is decided."""

# M boxes of an image, H W space

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from support.coco import box, boxes_of, content, write

from accuracy_booster.detection import load_coco
from accuracy_booster.detection.choices import AUGMENTS
from accuracy_booster.errors import TrainingStopped


@pytest.fixture
def make(tmp_path, pixels, png):
    """`make(train, val)`: a directory as COCO has it, with a file for each image."""
    return partial(write, tmp_path / "coco", pixels, png)


def test_items_hold_the_file(make, pixels):
    """Pixels, corners, labels by category id with gaps, areas; boxes in the file's order."""
    data = load_coco(make(), augment="none")
    assert data.classes == ("cat", "dog", "bear")
    assert data.category_ids == [3, 7, 90]
    found, target = data.images["train"][0]
    assert np.array_equal(found.permute(1, 2, 0), pixels("0010.png", 24, 32))
    assert target["boxes"].tolist() == [[2, 3, 12, 15], [5.5, 6.25, 13.5, 15.25]]
    assert target["labels"].tolist() == [2, 3]
    assert target["area"].tolist() == [60, 36]
    assert target["image_id"].tolist() == [10]
    types = {name: value.dtype for name, value in target.items()}
    whole = dict.fromkeys(("labels", "image_id", "iscrowd"), torch.int64)
    assert types == {"boxes": torch.float32, "area": torch.float32, **whole}
    assert data.notes == []
    assert data.unreadable == []


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


# --- where it lies


def test_roboflow(make, tmp_path):
    root = make()
    for split, name in (("train2017", "train"), ("val2017", "valid")):
        (tmp_path / "robo").mkdir(exist_ok=True)
        shutil.copytree(root / split, tmp_path / "robo" / name)
        file = root / "annotations" / f"instances_{split}.json"
        shutil.copy(file, tmp_path / "robo" / name / "_annotations.coco.json")
    data = load_coco(tmp_path / "robo")
    assert [len(loader.dataset) for loader in data.loaders.values()] == [4, 4]
    assert boxes_of(data, "test").keys() == {50, 51, 52, 53}


def test_test_split_where_no_val(make):
    root = make()
    for file in (root / "val2017", root / "annotations" / "instances_val2017.json"):
        file.rename(file.with_name(file.name.replace("val", "test")))
    data = load_coco(root)
    assert data.notes == ["val: there is no val split; annotations/instances_test2017.json is used"]
    assert len(data.images["test"]) == 4


def test_several_candidates(make):
    root = make(val2014=content(90))
    with pytest.raises(ValueError, match=r"several.*val2014.*val2017.*val_annotations"):
        load_coco(root)
    chosen = root / "annotations" / "instances_val2014.json"
    data = load_coco(root, val_annotations=chosen)
    assert 90 in boxes_of(data, "test")
    data = load_coco(root, val_annotations=chosen, val_images=root / "val2014", splits=["val"])
    assert [*data.loaders] == ["test"]


def test_paths_without_directory(make):
    root = make(val=content())
    file = root / "annotations" / "instances_train2017.json"
    (root / "annotations" / "instances_train2017.json").rename(root / "boxes.json")
    with pytest.raises(ValueError, match=r"no annotations of the train split.*train_annotations"):
        load_coco(root)
    paths = {"train_annotations": root / "boxes.json", "train_images": root / "train2017"}
    assert len(load_coco(None, splits=["train"], **paths).images["train"]) == 4
    assert len(load_coco(root, **paths).images["test"]) == 4
    with pytest.raises(ValueError, match=r"train_annotations=.* is no file"):
        load_coco(root, train_annotations=file)
    with pytest.raises(ValueError, match=r"are neither in .* give train_images"):
        load_coco(root, train_annotations=root / "boxes.json")
    with pytest.raises(ValueError, match=r"train_images=.* is no directory"):
        load_coco(root, train_annotations=root / "boxes.json", train_images=root / "x")
    with pytest.raises(ValueError, match="is not there"):
        load_coco(root / "none")
    with pytest.raises(ValueError, match="give the directory of the data, or val_annotations"):
        load_coco(None, **paths)


# --- faults of the file: the change, and what the line says

FAULTS = {
    "no images": (lambda c: c.pop("images"), "images is not there"),
    "images of another type": (lambda c: c.update(images={}), "images is {}; .* a list of images"),
    "no categories": (lambda c: c.update(categories=[]), "has no categories"),
    "an entry that is none": (
        lambda c: c["images"].append(5),
        "1 of 5 images are no objects, the first number 4: 5",
    ),
    "no height": (
        lambda c: c["images"][1].pop("height"),
        r"1 of 4 images have no height, the first number 1 \(id 11\): without it",
    ),
    "a width that is text": (lambda c: c["images"][2].update(width="16"), "width='16'"),
    "a width of 0": (lambda c: c["images"][2].update(width=0), "width=0"),
    "an id that is text": (
        lambda c: [i.update(id=str(i["id"])) for i in c["images"]],
        r"4 of 4 images have a id that is not a whole number, the first number 0 .*id='10'",
    ),
    "an id that is true": (lambda c: c["categories"][0].update(id=True), "id=True"),
    "an id beyond 64 bits": (lambda c: c["images"][0].update(id=2**63), "id=9223372036854775808"),
    "two images of one id": (
        lambda c: c["images"][1].update(id=10),
        "the id 10 is that of 2 images; each needs its own",
    ),
    "two categories of one id": (lambda c: c["categories"][1].update(id=7), "id 7 .* 2 categ"),
    "two categories of one name": (
        lambda c: c["categories"][1].update(name="dog"),
        "the name 'dog' is that of 2 categories",
    ),
    "a name that is none": (lambda c: c["categories"][1].update(name=" "), "name=' '"),
    "three numbers": (
        lambda c: c["annotations"][4]["bbox"].pop(),
        r"1 of 7 annotations have a bbox that is not 4 finite numbers, .* number 4 \(id 5\): bbox=",
    ),
    "NaN": (lambda c: c["annotations"][4].update(bbox=[1, 2, float("nan"), 4]), "nan, 4"),
    "infinity": (lambda c: c["annotations"][4].update(bbox=[1, 2, 3, float("inf")]), "inf"),
    "text in a box": (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "4"]), "'4'"),
    "a box beyond float": (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, 10**400]), "bits"),
    "no box": (lambda c: c["annotations"][0].pop("bbox"), "1 of 7 annotations have no bbox"),
    "image_id as text": (lambda c: c["annotations"][0].update(image_id="10"), "image_id='10'"),
    "no category_id": (lambda c: c["annotations"][0].pop("category_id"), "no category_id"),
    "an area of NaN": (lambda c: c["annotations"][0].update(area=float("nan")), "area=nan"),
    "a crowd of 2": (lambda c: c["annotations"][0].update(iscrowd=2), "iscrowd=2"),
    "several kinds": (
        lambda c: (c["annotations"][0].pop("bbox"), c["annotations"][3].update(area="x")),
        "have no bbox, .*; 1 of 7 annotations have a area",
    ),
    **{
        f"the path {path!r}": (
            lambda c, path=path: c["images"][0].update(file_name=path),
            "a file_name that is not a path below the folder",
        )
        for path in ("../x.png", "/etc/x.png", "a/../../x.png", "C:\\x", "..\\x", "", "a\0", 3)
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_file(make, fault):
    change, line = FAULTS[fault]
    root, broken = make(), content()
    change(broken)
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=line) as caught:
        load_coco(root)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        *((b"", "damaged"), (b'{"images": [', "damaged"), (b"[1]", "no JSON object")),
        *((b"\xff", "damaged"), (b"[" * 100_000, "damaged")),
        (b'{"images": ' + b"9" * 5000 + b"}", "damaged"),
    ],
)
def test_damaged_file(make, text, line):
    root = make()
    (root / "annotations" / "instances_val2017.json").write_bytes(text)
    with pytest.raises(ValueError, match=f"instances_val2017.json .*{line}"):
        load_coco(root)


def test_what_may_be_left_out_of_a_file(make):
    """No area, no iscrowd, no annotation ids, null for them; sizes as 32.0; a BOM."""
    bare = content()
    for entry in bare["annotations"]:
        del entry["id"], entry["area"], entry["iscrowd"]
    bare["annotations"][0] |= {"area": None, "iscrowd": None}
    bare["images"][0]["width"] = 32.0
    root = make(bare)
    file = root / "annotations" / "instances_train2017.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    data = load_coco(root)
    assert data.images["train"][0][1]["area"].tolist() == [120, 72]
    assert [a["id"] for a in data.truth("train")["annotations"]] == [*range(1, 8)]
    assert data.truth("train")["images"][0]["width"] == 32


# --- decisions

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


# --- classes


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


# --- images that cannot be read


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


def test_size_of_turned_images(make, pixels):
    """The upright size must be the annotated one: else the boxes were made before the turn."""
    root = make()
    for name, size in (("0010", (32, 24)), ("0011", (40, 20))):  # as stored
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6
        Image.fromarray(pixels(name, *size)).save(buffer, "PNG", exif=exif)
        (root / "train2017" / f"{name}.png").write_bytes(buffer.getvalue())
    images = load_coco(root).images["train"]
    turned = np.rot90(pixels("0010", 32, 24), -1)
    assert np.array_equal(images[0][0].permute(1, 2, 0), turned)
    line = "it has 20 x 40 pixels, .* of 40 x 20, .* remove its EXIF orientation"
    with pytest.raises(ValueError, match=line):
        images[1]


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
