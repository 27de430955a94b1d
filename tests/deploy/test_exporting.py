"""`ab.export`: what it writes, what it says of it, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from support.networks import randomise
from support.trainings import SPLITS_OF_TWO, short, train_digits
from torch import nn

import accuracy_booster as ab
from accuracy_booster.deploy import making
from accuracy_booster.errors import FailsParity
from accuracy_booster.exported import FORMATS, open_file
from accuracy_booster.training.opening_to_measure import open_measured

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("kind", "batch"), [("onnx", None), ("torch", None), ("openvino", None), ("aoti", 5)]
)
def test_a_run_becomes_a_file(trained, tmp_path, kind, batch):
    file = tmp_path / "folder" / f"net{FORMATS[kind].suffix}"
    exported = ab.export(trained, file, batch_sizes=None, count=10, batch=batch)
    assert exported.path == file
    assert sorted(exported.files) == sorted(file.parent.iterdir()), "nothing else is left there"
    assert exported.size == sum(f.stat().st_size for f in exported.files)
    assert exported.parity.images == 10
    assert exported.parity.max_error < 1e-5
    assert exported.parity.source == "test images of digits"
    about = open_file(file).about
    assert about == exported.about
    run = ab.load_run(trained)
    assert about.classes == run.classes
    assert list(about.mean) == list(run.pretrained_cfg["mean"])
    assert about.input_size == (1, 8, 8)
    assert about.batch == batch
    assert about.threads == (torch.get_num_threads() if kind == "aoti" else None)
    assert (about.network, about.block) == ("resnet8", "ab")
    assert about.training["seed"] == 0
    assert about.training["epochs"] == 1
    assert about.metrics["test"]["top1"] == pytest.approx(ab.evaluate(trained).top1)
    assert about.versions["torch"] == torch.__version__.split("+")[0]
    assert FORMATS[kind].runtime in about.versions
    assert str(trained) not in json.dumps(about.to_texts())


def test_the_format_s_own_name_in_the_run_s_directory(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    assert ab.export(run, batch_sizes=None).path == run / "model.onnx"
    assert ab.export(run, format="torch", batch_sizes=None).path == run / "model.pt2"
    assert ab.evaluate(run).images == 360, "the run is still one"


def test_a_run_that_is_trained_anew_leaves_no_file_of_the_old_one(trained, tmp_path):
    """But one that another program wrote, or that was given another name."""
    run = shutil.copytree(trained, tmp_path / "run")
    for kind in ("onnx", "openvino"):
        ab.export(run, format=kind, batch_sizes=None)
    shutil.copy(run / "model.onnx", run / "mine.onnx")
    (run / "model.pte").write_text("another program's")
    (run / "model.aoti.pt2").touch()
    train_digits(run, overwrite=True)
    left = {file.name for file in run.iterdir()}
    assert not {"model.onnx", "model.xml", "model.bin"} & left
    assert {"mine.onnx", "model.pte", "model.aoti.pt2"} <= left


def test_the_file_has_the_run_s_accuracy(trained, tmp_path):
    session = open_file(ab.export(trained, tmp_path / "net.onnx", batch_sizes=None).path)
    opened = open_measured(trained, device="cpu")
    right = images = 0
    for batch in opened.loader.batches(0, device=torch.device("cpu")):
        x = ab.data.normalise(batch.images, session.about.mean, session.about.std)
        right += int((session(x.numpy()).argmax(1) == batch.labels.numpy()).sum())
        images += len(x)
    assert 100 * right / images == pytest.approx(ab.evaluate(trained).top1)


def test_latency_beside_other_forms(trained, tmp_path):
    exported = ab.export(trained, tmp_path / "net.onnx", batch_sizes=(1, 2), seconds=0.05)
    assert [row.batch for row in exported.latency] == [1, 2]
    assert exported.about.metrics["latency"] == [row.to_dict() for row in exported.latency]
    header, rows = exported.table()
    assert "this file / without gates" in header
    assert [row[0] for row in rows] == ["1", "2"]
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"]


def test_a_module_of_timm(tmp_path):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3)
    ab.boost(model, "ab")
    model = randomise(model, spread=0.2).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64)}
    model.default_cfg = model.pretrained_cfg
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exported = ab.export(model, tmp_path / "net.xml", batch_sizes=None, count=4)
    assert exported.about.network == "resnet10t"
    assert exported.about.classes == ("output 0", "output 1", "output 2")
    assert exported.about.block == str(ab.recipe("ab"))
    assert exported.parity.source == "random images"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_file_that_computes_something_else_is_not_kept(trained, tmp_path, monkeypatch):
    real = making.fold

    def wrong(network, **how):
        folded = real(network, **how)
        with torch.no_grad():
            next(folded.parameters()).mul_(1.01)
        return folded

    file = tmp_path / "net.onnx"
    file.write_bytes(b"the file of yesterday")
    monkeypatch.setattr(making, "fold", wrong)
    with pytest.raises(FailsParity, match="the exported file is not kept: its outputs differ by"):
        ab.export(trained, file, batch_sizes=None)
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"]
    assert file.read_bytes() == b"the file of yesterday"


def test_a_file_that_the_runtime_spoils_is_not_kept(trained, tmp_path, monkeypatch):
    """The last check is of the very file that stays, with all its texts."""
    real, calls = making.compare, []

    def second_differs(*args, **more):
        calls.append(args)
        parity = real(*args, **more)
        return parity if len(calls) == 1 else type(parity)(1.0, 1, 0, "images")

    monkeypatch.setattr(making, "compare", second_differs)
    with pytest.raises(FailsParity):
        ab.export(trained, tmp_path / "net.onnx", batch_sizes=None)
    assert not list(tmp_path.iterdir())


def test_images_of_the_user(trained, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
    exported = ab.export(trained, tmp_path / "n.onnx", images=list(images), batch_sizes=None)
    assert exported.parity.source == "given images"
    assert exported.parity.images == 3


def test_a_run_whose_data_are_gone(make_folder, tmp_path, capsys):
    data = make_folder(SPLITS_OF_TWO)
    run = ab.train("resnet8", data=str(data), **short(tmp_path)).output
    shutil.rmtree(data)
    exported = ab.export(run, batch_sizes=None)
    assert exported.parity.source == "random images"
    assert "random images take their place" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="nowhere"):
        ab.export(run, batch_sizes=None, data=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"format": "tflite"},
            "unknown format 'tflite'; known: aoti, executorch, onnx, openvino, torch",
        ),
        ({"output": "net.tflite"}, r"its name must end with one of \.onnx, \.pt2, "),
        ({"output": "net.onnx", "format": "torch"}, r"must end with \.pt2, as files of the format"),
        ({"opset": 7}, "must be a whole number from 18"),
        ({"opset": 18, "format": "torch"}, "is for the format onnx"),
        ({"output": "net.aoti.pt2", "format": "torch"}, r"must end with \.pt2, as files of"),
        ({"kernel": "auto"}, "kernel='auto' is for the format aoti"),
        ({"kernel": "banana"}, "unknown kernel 'banana'"),
        ({"output": "/proc/x.onnx"}, "cannot write to /proc: .*; choose another output"),
        ({"batch": 0}, "batch=0 must be a whole number >= 1"),
        ({"batch_sizes": (1, 0)}, "batch_sizes=0 must be a whole number >= 1"),
        ({"count": 1.5}, r"count=1\.5 must be a whole number >= 1"),
        ({"tolerance": 0}, "tolerance=0 must be a number > 0"),
    ],
)
def test_wrong_options(trained, options, message):
    with pytest.raises(ValueError, match=message):
        ab.export(trained, **options)


def test_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        ab.export(tmp_path)
    with pytest.raises(ValueError, match="does not say how its images are made"):
        ab.export(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="expected a run's directory or a network, got int"):
        ab.export(3)


def test_an_output_that_is_a_directory(trained, tmp_path):
    with pytest.raises(ValueError, match=r"is a directory; name a file in it, such as .*onnx"):
        ab.export(trained, tmp_path)


class OfOneNumber(nn.Module):
    """Takes one number of images and no other."""

    pretrained_cfg: ClassVar = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.fc = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x):
        return self.fc(x.reshape(self.number, 3 * 8 * 8))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1, r"does not take 2 images, give batch= \(--batch\)"),
        (2, r"cannot take 32 images .*give that \(batch=, --batch\)"),
    ],
)
def test_a_module_for_one_number_of_images(tmp_path, number, message):
    network = OfOneNumber(number).eval()
    with pytest.raises(ValueError, match=message):
        ab.export(network, tmp_path / "net.onnx")
    exported = ab.export(network, tmp_path / "net.onnx", batch=number, batch_sizes=None)
    assert exported.about.batch == number


def test_a_run_of_a_newer_version(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    with (run / "config.yaml").open("a") as config:
        config.write("setting_of_tomorrow: 1\n")
    with pytest.raises(ValueError, match="setting_of_tomorrow"):
        ab.export(run)


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_a_missing_package(trained, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"takes {package}, .*; pip install {package}, or"):
        ab.export(trained)
