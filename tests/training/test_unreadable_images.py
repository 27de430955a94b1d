"""Images that cannot be read are named, counted and bounded."""

from __future__ import annotations

import json
import shutil

import pytest
from support.interruptions import (
    in_the_step,
)
from support.processes import cannot_fork
from support.trainings import (
    assert_equal_ends,
    finish,
    kill,
    make_data,
    options,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.errors import TrainingStopped

pytestmark = [pytest.mark.forks, cannot_fork]


@pytest.fixture
def broken(data, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(data, root)
    for name in ("train/class1/3.png", "train/class1/4.png", "test/class0/2.png"):
        file = root / name
        file.write_bytes(file.read_bytes()[:400])
    return root


def test_unreadable_images_are_counted_named_and_repeat(broken, tmp_path, capfd):
    results = [ab.train(**options(broken, tmp_path / name)) for name in ("a", "b")]
    assert_equal_ends(tmp_path / "a", tmp_path / "b")
    named = json.loads((tmp_path / "a/run.json").read_text())["unreadable"]
    assert len(named) == 3
    for name in ("train/class1/3.png", "train/class1/4.png", "test/class0/2.png"):
        assert sum(str(broken / name) in reason for reason in named) == 1
    assert results[0].test.images == 14
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("skipped, cannot read the image") == 6
    with pytest.warns(UserWarning, match=r"left out, .*class0/2\.png"):
        measured = ab.evaluate(tmp_path / "a")
    assert measured.images == 14
    assert measured.top1 == results[0].test.top1


def test_too_many_unreadable_images_stop_the_training(broken, tmp_path):
    with pytest.raises(
        TrainingStopped, match=r"2 images .*more than bad_images=1; the last: .*png"
    ):
        ab.train(**options(broken, tmp_path / "run", bad_images=1))
    with pytest.raises(TrainingStopped, match=r"1 image cannot be read, more than bad_images=0"):
        ab.evaluate(
            nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), str(broken), image_size=16, bad_images=0
        )
    ab.train(**options(broken, tmp_path / "enough", bad_images=3, epochs=1))


def test_a_killed_run_with_unreadable_images(broken, tmp_path):
    finish(broken, tmp_path / "whole", tmp_path)
    kill(broken, tmp_path / "run", tmp_path, lambda: in_the_step(6))
    finish(broken, tmp_path / "run", tmp_path)
    assert_equal_ends(tmp_path / "whole", tmp_path / "run")


def small_broken(tmp_path):
    root = make_data(tmp_path / "small", size=(16, 16))
    (root / "train/class1/3.png").write_bytes(b"")
    (root / "test/class0/2.png").write_bytes(b"")
    return root


def test_unreadable_small_images_are_counted(tmp_path):
    root = small_broken(tmp_path)
    result = ab.train(**options(root, tmp_path / "run", epochs=1))
    assert result.test.images == 14
    assert len(json.loads((tmp_path / "run/run.json").read_text())["unreadable"]) == 2
    with pytest.raises(TrainingStopped, match="more than bad_images=1"):
        ab.train(**options(root, tmp_path / "few", bad_images=1))


def test_unreadable_small_images_are_counted_once_by_a_run_that_goes_on(tmp_path):
    root = small_broken(tmp_path)
    run = tmp_path / "run"
    kill(root, run, tmp_path, lambda: in_the_step(3), bad_images=2)
    finish(root, run, tmp_path)
    assert len(json.loads((run / "run.json").read_text())["unreadable"]) == 2
