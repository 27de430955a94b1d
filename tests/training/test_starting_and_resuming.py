"""What can be trained and resumed, with which options, and what is refused."""

import json

import pytest
import torch
from support.processes import forks
from support.trainings import (
    digit_words,
    equal_tensors,
    hashes,
    short,
    small,
    stored,
    weights,
)

import accuracy_booster as ab
from accuracy_booster.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS = {
    "constant": {"schedule": "step", "milestones": (), "lr": 0.01},
    "with a moving average": {"schedule": "step", "milestones": (), "lr": 0.01, "ema": 0.9},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_run_that_ended_is_trained_longer_to_the_same_end(kind, here):
    """With a rate that does not depend on the length it is the longer training, bit for bit."""
    small("images", output="run", epochs=2, **OPTIONS[kind])
    result = ab.train(resume="run", epochs=4)
    small("images", output="whole", epochs=4, **OPTIONS[kind])
    assert equal_tensors(weights(here / "run"), weights(here / "whole"))
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["lengthened"] == [{"from": 2, "to": 4, "at": 2}]
    assert stored(here / "run")["epochs"] == 4
    ab.train(resume="run", epochs=5)
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["lengthened"][1:] == [{"from": 4, "to": 5, "at": 4}]
    assert main(["train", "--resume", "run", "--epochs", "5"]) == 0  # it has ended: as it is


def test_the_rate_is_that_of_the_new_length_from_there_on(here):
    options = {"schedule": "cosine", "lr": 0.1}
    small("images", output="run", epochs=2, **options)
    history = ab.train(resume="run", epochs=4).history
    # 0.1 (1 + cos(pi e / E)) / 2: E is 2 in epochs 0 and 1, and 4 in epochs 2 and 3
    expected = [0.1, 0.05, 0.05, 0.0146447]
    assert [row["lr"] for row in history] == pytest.approx(expected, rel=1e-4)


def test_train_refusals(grey, tmp_path):
    options = short(tmp_path)
    with pytest.raises(ValueError, match="more than num_classes=2"):
        ab.train("resnet8", data=str(grey), num_classes=2, **options)
    with pytest.raises(ValueError, match=r"groups=5 must divide channels=16; try 4 or 8"):
        ab.train("resnet8", data=str(grey), block="ab_g5", **options)
    assert not (tmp_path / "run").exists(), "a refused run left something behind"
    ab.train("resnet8", data=str(grey), **options)
    with pytest.raises(ValueError, match="already holds a run; choose another --output, or --over"):
        ab.train("resnet8", data=str(grey), **options)
    weights = tmp_path / "run" / "model.safetensors"
    weights.rename(tmp_path / "weights")  # now it has not ended
    with pytest.raises(ValueError, match=r"has not ended.*--overwrite; go on .*--resume"):
        ab.train("resnet8", data=str(grey), **options)
    (tmp_path / "weights").rename(weights)
    ab.train("resnet8", data=str(grey), overwrite=True, **options)
    with pytest.raises(ValueError, match="needs a GPU"):
        ab.train("resnet8", data=str(grey), precision="fp16", **short(tmp_path, "half"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            ab.train("resnet8", data=str(grey), **short(tmp_path, "cuda", device="cuda"))


@forks
def test_resuming_a_finished_run_changes_nothing(reference):
    run = reference()
    before = hashes(run)
    times = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    first, second = ab.train(resume=run), ab.train(resume=str(run))
    assert hashes(run) == before
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == times
    assert first == second
    assert first.test.to_dict() == json.loads((run / "run.json").read_text())["test"]
    assert len(first.history) == 2


@forks
def test_resume_goes_with_nothing_else(reference, capsys):
    run = reference()
    with pytest.raises(ValueError, match="the run's own settings; leave out lr"):
        ab.train(resume=run, lr=0.1)
    with pytest.raises(ValueError, match="leave out model, seed"):
        ab.train("resnet8", resume=run, seed=3, epochs=3)
    with pytest.raises(ValueError, match="name a model, or a run to resume"):
        ab.train()
    assert main(["train", "--resume", str(run), "--lr", "0.1"]) == 2
    assert "leave out lr" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds no run"):
        ab.train(resume=run / "nowhere")


@pytest.mark.parametrize("more", [{"accumulate": 64, "batch_size": 64}, {"block": "nothing"}])
def test_settings_that_are_refused_leave_nothing_behind(more, tmp_path):
    assert main(digit_words("train", tmp_path / "run", **more)) == 2
    assert not (tmp_path / "run").exists()
