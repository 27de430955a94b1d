"""The directory of a run that names no output."""

from __future__ import annotations

from pathlib import Path

import pytest

from accuracy_booster.training import resolve
from accuracy_booster.training.output_directory import base_dir, begun_dir, new_dir


@pytest.mark.parametrize(
    ("model", "options", "name"),
    [
        ("resnet8", {}, "resnet8-ab-digits-s0"),
        ("resnet8", {"block": "gap | sigmoid", "seed": 3}, "resnet8-gap-sigmoid-digits-s3"),
        ("timm/resnet18", {"data": "/x/birds/", "block": "none"}, "timm_resnet18-none-birds-s0"),
    ],
)
def test_it_is_named_after_the_run(model, options, name):
    assert base_dir(resolve(model, **options)) == Path("runs") / name


def test_it_is_numbered_where_there_is_one(tmp_path):
    place = tmp_path / "a"
    for name in ("a", "a-2", "a-3"):
        assert new_dir(place) == tmp_path / name
        (tmp_path / name).mkdir()


def test_the_one_that_was_begun_last_is_found(tmp_path):
    config, place = resolve("resnet8"), tmp_path / "a"
    assert begun_dir(config, place) == place
    for name in ("a", "a-2", "a-3"):
        new_dir(place).mkdir()
        assert begun_dir(config, place) == tmp_path / name
    assert begun_dir(config.change({"output": "x"}), place) == Path("x")
