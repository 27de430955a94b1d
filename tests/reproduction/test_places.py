"""Data and weights: where they are found, and what is said where they are missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.detector_runs import TABLE_9, detector_spec

from accuracy_booster.reproduction import TABLES, Places, plan
from accuracy_booster.reproduction.places import LAYOUTS


def test_a_detector_needs_the_data_of_both_trainings(made_detectors, tmp_path, monkeypatch):
    monkeypatch.setitem(LAYOUTS, "pictures", "folders of images")
    (tmp_path / "shapes").symlink_to(made_detectors.data / "shapes")
    spec = detector_spec("AB, AP")
    assert made_detectors.missing_for(spec) == ""
    other = replace(made_detectors, data=tmp_path)
    assert "the data set pictures is not at hand" in other.missing_for(spec)
    parent, detector = plan([TABLE_9], "short", 1)[:2]
    assert "imagenet is not at hand" in Places().missing_for(parent)
    assert "coco is not at hand" in Places().missing_for(detector)


def test_data_that_are_not_at_hand_are_told_with_their_layout(tmp_path):
    with pytest.raises(ValueError, match=r"imagenet is not at hand .*train/ and val/"):
        Places().data_of("imagenet")
    (tmp_path / "imagenet").mkdir()
    with pytest.raises(ValueError, match=r"imagenet is not at hand"):  # the folder is empty
        Places(data=tmp_path).data_of("imagenet")
    assert Places(data=tmp_path).data_of("digits") == {"data": "digits", "data_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="there is no folder"):
        Places(data=tmp_path / "nowhere").data_of("cifar10")


def test_weights_are_the_public_file_or_refused(tmp_path):
    spec = plan([TABLES["finetune"]], "short", 1)[0]
    assert "not at hand" in Places().missing_for(spec)
    (tmp_path / "resnet20_cifar10.th").write_bytes(b"another file")
    assert "is not the public file" in Places(weights=tmp_path).missing_for(spec)
