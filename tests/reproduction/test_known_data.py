"""Public data sets are recognised, and others are refused."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from support.detector_runs import write_shapes
from support.runs import small
from torchvision import datasets

from accuracy_booster.data.images import TensorImages
from accuracy_booster.reproduction import Places, known_data, plan
from accuracy_booster.reproduction.known_data import digest


def test_a_folder_of_other_images_is_no_coco(tmp_path):
    write_shapes(tmp_path / "coco")
    with pytest.raises(ValueError, match=r"coco is not at hand \(.* has 2 classes, 4 training and"):
        Places(data=tmp_path).data_of("coco")


def test_of_several_years_the_papers_is_taken(tmp_path, monkeypatch):
    known = known_data.Known(2, 4, 3)
    monkeypatch.setattr(known_data, "COCO", {"2014": known, "2017": known})
    folder = write_shapes(tmp_path / "coco", ("2017", "2014"))
    found = Places(data=tmp_path).data_of("coco")
    assert found == {
        "data": str(folder),
        "train_annotations": str(folder / "annotations" / "instances_train2014.json"),
        "val_annotations": str(folder / "annotations" / "instances_val2014.json"),
    }


def test_a_folder_of_other_images_is_no_cifar(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    with pytest.raises(ValueError, match=r"2 classes, 8 training and 4 test images, and cifar10"):
        Places(data=tmp_path).data_of("cifar10")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_real_cifar_is_known_and_another_is_not(shared, name, tmp_path):
    assert Places(data=shared / "data").data_of(name) == {"data": str(shared / "data" / name)}
    other = {"cifar10": "cifar100", "cifar100": "cifar10"}[name]
    (tmp_path / name).symlink_to(shared / "data" / other)
    with pytest.raises(ValueError, match=f"{name} is not at hand"):
        Places(data=tmp_path).data_of(name)


def test_the_digest_is_of_images_and_labels_whatever_their_order():
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    first = digest(TensorImages(images, labels))
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert digest(TensorImages(images[order], labels[order])) == first
    assert digest(TensorImages(images, labels.flip(0))) != first
    images[2, 0, 0, 0] ^= 1
    assert digest(TensorImages(images, labels)) != first


def test_cifar_that_cannot_be_downloaded_is_told_once(tmp_path, monkeypatch):
    tried = []

    def refuse(*_, **options):
        tried.append(options)
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets, "CIFAR100", refuse)
    places = Places(data=tmp_path)
    for spec in plan([small(data="cifar100")], "short"):
        told = places.missing_for(spec)
        assert "cifar100 is not at hand" in told
        assert "Parquet" in told
        assert "--data-dir" in told
    assert len(tried) <= 2  # once to read it, once to download it
