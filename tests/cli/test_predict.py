"""The command `predict`."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from support.commands import run as command
from support.hostile import EVIL, harmless
from support.trainings import SPLITS_OF_TWO, short

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def trained(make_folder, tmp_path):
    data = make_folder(SPLITS_OF_TWO)
    return data, ab.train("resnet8", data=str(data), **short(tmp_path)).output


def test_predict_prints_a_line_for_each_image(trained, capsys):
    data, run = trained
    code, out, err = command(capsys, "predict", run, data / "test", "--top", "1")
    assert code == 0, err
    lines = out.strip().splitlines()
    expected = list(ab.predict(run, data / "test", top=1))
    assert lines == [f"{p.image}: {p}" for p in expected]
    assert len(lines) == 8
    code, out, err = command(capsys, "predict", run, data / "**" / "001.png", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert len(value["images"]) == 4
    assert all(len(image["top"]) == 2 for image in value["images"])


def test_bad_images_are_named_and_the_rest_is_predicted(trained, tmp_path, capsys):
    data, run = trained
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(data / "test/a/000.png", place / f"good{EVIL}.png")
    (place / "bad.png").write_bytes(b"no image")
    code, out, err = command(capsys, "predict", run, place)
    assert code == 1
    assert harmless(out + err)
    assert "left out, cannot read the image" in err
    assert "bad.png: it is no image" in " ".join(err.split())
    assert len(out.strip().splitlines()) == 1
    file = tmp_path / "found.csv"
    code, out, _ = command(capsys, "predict", run, place, "--output", file)
    assert (code, out.strip()) == (1, str(file))
    with file.open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [bool(row["unreadable"]) for row in rows] == [True, False]
    assert {rows[1]["class"], rows[1]["class_2"]} == {"a", "b"}


def test_a_file_of_export_is_predicted_as_its_run_is(trained, tmp_path, capsys):
    data, run = trained
    file = ab.export(run, tmp_path / "net.onnx", batch_sizes=None, count=4).path
    images = (data / "test", "--top", "1")
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, out, err = command(capsys, "predict", file, *images)
    assert code == 0, err
    assert out == command(capsys, "predict", run, *images)[1]
    code, out, err = command(capsys, "predict", file, data / "test", tmp_path / "bad.png", "--json")
    assert code == 1
    value = json.loads(out)
    assert len(value["images"]) == 8
    assert list(value["unreadable"]) == [str(tmp_path / "bad.png")]
    (tmp_path / "other.onnx").write_bytes(b"no model")
    for network, words, said in (
        (file, ["--fold"], "an exported file is folded already"),
        (file, ["--model", "x"], "an exported file holds its network"),
        (file, ["--device", "cuda"], "an exported file runs on the CPU"),
        (tmp_path / "gone.onnx", [], "there is no file"),
        (tmp_path / "bad.png", [], "is no exported file: its name must end with"),
        (tmp_path / "other.onnx", [], "other.onnx is not a file that onnxruntime reads"),
    ):
        code, out, err = command(capsys, "predict", network, "nowhere.png", *words)
        assert (code, out) == (2, "")
        assert said in " ".join(err.split())


def test_what_predict_refuses(trained, tmp_path, capsys):
    data, run = trained
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([tmp_path / "empty"], "holds no images that Pillow reads"),
        ([tmp_path / "nowhere"], "there is no file or directory"),
        ([tmp_path / "*.jpg"], "matches no images"),
        ([data, "--output", tmp_path / "a.txt"], "must end with .csv or .json"),
        ([data, "--top", "0"], "top=0 must be a whole number >= 1"),
        ([data, "--workers", "-1"], "workers=-1 must be >= 0"),
        ([data, "--device", "tpu"], "device='tpu' must be auto, cpu or cuda"),
    ):
        code, _, err = command(capsys, "predict", run, *words)
        assert code == 2, said
        assert said in " ".join(err.split())
    code, _, err = command(capsys, "predict", tmp_path, data)
    assert code == 2
    assert "holds no run" in err
