"""Where the files of a data set are found."""

from __future__ import annotations

import shutil

import pytest
from support.coco import boxes_of, content

from accuracy_booster.detection import load_coco

# M boxes of an image, H W space


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
