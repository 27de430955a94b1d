"""Data sets of seconds, and finished runs on them, that tests of training share."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image
from support.trainings import DIGITS, SPLITS_OF_TWO, finish, make_data

import accuracy_booster as ab
from accuracy_booster.report import page


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """What every forked child would import anew."""
    for name in ("accelerate", "timm.utils", "torchvision.transforms.v2", "torch._dynamo"):
        importlib.import_module(name)
    if importlib.util.find_spec("tensorboard"):
        importlib.import_module("torch.utils.tensorboard")
    templates = page._environment("accuracy_booster.training")
    for name in templates.list_templates(extensions=["html"]):  # of the page that ends a run
        templates.get_template(name)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Images for runs with `support.trainings.options`; no test may change them."""
    return make_data(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="session")
def reference(data, tmp_path_factory):
    """`reference(setup)`: the run that nothing interrupted; no test may change it."""
    folder = tmp_path_factory.mktemp("reference")

    def make(setup="files"):
        if not (folder / setup).exists():
            finish(data, folder / setup, folder, setup)
        return folder / setup

    return make


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """A folder with two finished runs, s1 and s2, which differ in their seed; none may change."""
    folder = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in (1, 2):
            ab.train(**{**DIGITS, "seed": seed}, output=str(folder / f"s{seed}"))
    return folder


@pytest.fixture
def run(two_runs, tmp_path):
    """A copy of s1."""
    return shutil.copytree(two_runs / "s1", tmp_path / "run")


@pytest.fixture
def grey(tmp_path):
    """3 classes, 5 + 3 images of 16x16 that differ in brightness."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 3)):
        for label, name in enumerate(("dark", "grey", "white")):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (16, 16, 3)) + 90 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def folder(make_folder):
    """3 classes, 8 + 4 images of 32x32."""
    names = [f"{split}/{name}" for split in ("train", "test") for name in "abc"]
    return make_folder({n: 8 if n.startswith("train") else 4 for n in names}, size=(32, 32))


@pytest.fixture
def here(tmp_path, make_folder, monkeypatch):
    """A working directory with a data set in `images`, and another of the same name elsewhere."""
    make_folder(SPLITS_OF_TWO)
    make_folder(SPLITS_OF_TWO | {"train/a": 9, "test/b": 5}, name="elsewhere/images")
    monkeypatch.chdir(tmp_path)
    return tmp_path
