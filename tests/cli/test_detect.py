"""The commands of detection, as a person types them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file
from support.detectors import make_coco, options, words
from support.processes import torchrun

import accuracy_booster as ab
from accuracy_booster.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:the batch norm of the gate")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(words("detect train", options(data, run))) == 0
    return run


@pytest.fixture(scope="module")
def classified(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("classified") / "run"
    given = {"epochs": 1, "device": "cpu", "compile": "off", "batch_size": 512}
    ab.train("resnet8", output=str(run), **given)
    return run


def error(capsys: Any, *given: Any) -> str:
    """The one line with which a command fails."""
    capsys.readouterr()
    assert main([str(word) for word in given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("accuracy-booster: error: ")]
    assert len(lines) == 1, err
    return lines[0]


# train


def test_train_tells_what_it_does_and_what_it_came_to(data, tmp_path, capsys):
    given = options(data, tmp_path / "run", epochs=1)
    assert main(words("detect train", given)) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("AP ")
    assert "on 3 images after 1 epoch," in out
    assert out.splitlines()[-1] == str(tmp_path / "run")
    told = " ".join(err.split())
    assert "images have no box to learn from" in told
    assert "part trainable frozen gates gates frozen norms gates' norms" in told
    assert "epoch 1/1 loss" in told
    assert main([*words("detect train", given), "--overwrite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["test"] == json.loads((tmp_path / "run" / "run.json").read_text())["test"]
    assert told["output"] == str(tmp_path / "run")


def test_a_configuration_file_repeats_a_run(trained, tmp_path, capsys):
    config = str(trained / "config.yaml")
    again = tmp_path / "again"
    assert main(["detect", "train", "--config", config, "--output", str(again)]) == 0
    first, second = (load_file(run / "model.safetensors") for run in (trained, again))
    assert all((first[name] == second[name]).all() for name in first)
    capsys.readouterr()
    assert main(["detect", "train", "--config", config, "--print_config"]) == 0
    out, file = capsys.readouterr().out, (trained / "config.yaml").read_text()
    assert out.splitlines()[0] == file.splitlines()[0] == "backbone: resnet8"
    assert out == file


def test_torchrun_trains_once_and_tells_once(data, tmp_path):
    given = options(data, tmp_path / "run", epochs=1, batch_size=4, norms="synchronised")
    done = torchrun("-m", "accuracy_booster", *words("detect train", given), "--json")
    assert done.returncode == 0, done.stderr
    (told,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert told["test"] == json.loads((tmp_path / "run" / "run.json").read_text())["test"]
    assert told["test"]["images"] == 3
    assert done.stderr.count("epoch 1/1") == 1
    assert done.stderr.count("images have no box to learn from") == 1
    assert done.stderr.count("part      trainable") == 1


# eval, predict, runs


def test_eval_prints_the_numbers_that_the_run_reported(trained, capsys):
    told = json.loads((trained / "run.json").read_text())["test"]
    assert main(["detect", "eval", str(trained), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "AP %" in out
    assert f"{told['ar100']:.1f}" in out
    assert out.strip().endswith("3 images")
    assert main(["detect", "eval", str(trained), "--device=cpu", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values.pop("by_class").keys() == {"red", "green", "blue"}
    assert values == told
    assert main(["detect", "eval", str(trained), "--device=cpu", "--max_size=40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3


def test_predict_makes_pictures_and_tells_what_it_left_out(trained, data, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = [str(data / "val2017" / "000.png"), str(tmp_path / "broken.png")]
    where = ["--output", str(tmp_path / "out"), "--threshold=0", "--device=cpu"]
    assert main(["detect", "predict", str(trained), *given, *where]) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'out' / '000.png'}: " in out
    assert "left out, " in err
    assert "broken.png" in err
    assert Image.open(tmp_path / "out" / "000.png").format == "PNG"
    stored = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert stored["classes"] == ["red", "green", "blue"]
    (image,) = stored["images"]
    assert image["boxes"]
    assert set(image["names"]) <= {"red", "green", "blue"}
    assert main(["detect", "predict", str(trained), *given, *where, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"][0]["boxes"] == image["boxes"]
    assert [*told["unreadable"]] == [given[1]]
    assert "no file or directory" in error(capsys, "detect", "predict", trained, tmp_path / "no")
    assert "threshold=2.0" in error(capsys, "detect", "predict", trained, data, "--threshold=2")


def test_runs_shows_average_precision_where_there_are_detectors(
    trained, classified, tmp_path, capsys
):
    shutil.copytree(trained, tmp_path / "both" / "detection")
    (tmp_path / "both" / "detection" / "model.safetensors").unlink()
    shutil.copytree(classified, tmp_path / "both" / "classification")
    assert main(["runs", str(tmp_path / "both")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "top-1 % AP % state" in out
    assert "accuracy-booster detect train --resume RUN goes on" in out
    assert "accuracy-booster train --resume" not in out
    assert main(["runs", str(trained.parent)]) == 0
    ap = json.loads((trained / "run.json").read_text())["test"]["ap"]
    assert f"2/2 {ap:.1f} finished" in " ".join(capsys.readouterr().out.split())
    assert main(["runs", str(classified.parent)]) == 0
    assert "AP" not in capsys.readouterr().out
    assert main(["runs", str(trained.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["ap"] == ap


# what cannot be


def test_a_run_of_the_other_task_is_told_with_the_command_that_takes_it(
    trained, classified, capsys, tmp_path
):
    before = sorted(trained.rglob("*")), sorted(classified.rglob("*"))
    for command in (["eval"], ["train", "--resume"], ["merge"], ["prune"]):
        told = error(capsys, *command, trained, *_needed(command[0], tmp_path))
        assert "holds a run of 'detection', not of classification; detect train --resume" in told
        assert "detect eval and detect predict take it" in told
    assert "look at its gates by ab.gates(" in error(capsys, "inspect", trained)
    for command in (["detect", "eval"], ["detect", "train", "--resume"]):
        told = error(capsys, *command, classified)
        assert "holds a run of 'classification', not of detection; train --resume, eval" in told
    told = error(capsys, "detect", "predict", classified, trained / "config.yaml")
    assert "holds a run of 'classification', not of detection" in told
    assert "eval, predict, inspect and" in told
    told = error(capsys, "predict", trained, trained / "config.yaml")
    assert "holds a run of 'detection', not of classification" in told
    assert "detect predict take it" in told
    assert (sorted(trained.rglob("*")), sorted(classified.rglob("*"))) == before


def _needed(command: str, tmp_path: Path) -> list[str]:
    return [f"--output={tmp_path / 'merged.safetensors'}"] if command == "merge" else []


def test_words_that_cannot_be_used_are_one_line(data, trained, tmp_path, capsys):
    train = ["detect", "train", f"--data={data}", f"--output={tmp_path / 'run'}"]
    (tmp_path / "empty").mkdir()
    cases = [
        (train, "name a network, with NAME or --backbone NAME"),
        ([*train, "--backbone=resnet8", "--norm=frozen"], "--norms"),
        ([*train, "--backbone=resnet8", "--trainable_layer=2"], "--trainable_layers"),
        ([*train, "--backbone=resnet8", "--norms=frosen"], "norms='frosen' must be auto, frozen"),
        ([*train, "--backbone=resnet8", "--trainable_layers=6"], "must be from 0 to 5"),
        ([*train, "--backbone=resnet8", "--min_size=2000"], "max_size=1333 must be"),
        ([*train, "--backbone=resnt8"], "resnet8"),
        ([*train, "--backbone=resnet8", "--lr=fast"], "lr"),
        ([*train[:2], "--backbone=resnet8", f"--data={tmp_path / 'empty'}"], "empty"),
        ([*train[:2], "--backbone=resnet8", f"--data={tmp_path / 'nowhere'}"], "nowhere"),
        ([*train[:2], "--backbone=resnet8"], "data='' must be a directory in COCO's format"),
        (["detect", "eval", trained, "--mn_size=3"], "--min_size"),
        (["detect", "eval", trained, "--split=validation"], "'val' or 'train'"),
        (["detect", "predict", trained, data, "--treshold=1"], "--threshold"),
        (["detect", "evaluate", trained], "unknown detect command 'evaluate'; nearest: eval"),
        (["detect", "train", "--resume", trained, "--lr=1"], "leave out lr"),
        (["detect", "train", "--resume", tmp_path / "nowhere"], "holds no run"),
    ]
    for given, message in cases:
        assert message in error(capsys, *given), given
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["detect", "detect train", "detect eval", "detect predict"])
def test_help_imports_no_torch(given):
    code = (
        "import sys; from accuracy_booster.cli import main\n"
        f"try: main([*{given.split()}, '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'torchvision', 'faster_coco_eval') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
    assert "usage: accuracy-booster detect" in out.stdout
