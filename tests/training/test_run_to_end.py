"""A run from its beginning, or from its last good checkpoint, to its result."""

import csv
import itertools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.interruptions import (
    in_the_step,
)
from support.processes import forks
from support.trainings import (
    assert_equal_ends,
    contents,
    equal_tensors,
    equal_weights,
    finish,
    flip,
    kill,
    short,
    small,
    train_digits,
    weights,
)

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.cli import main
from accuracy_booster.training import (
    checkpoint,
)
from accuracy_booster.training.train_config import TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore")


def test_fewer_epochs_than_it_has_are_refused(here):
    small("images", output="run", epochs=3)
    with pytest.raises(ValueError, match=r"epochs=2, but .* begun its epoch 3; give --epochs 3"):
        ab.train(resume="run", epochs=2)
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 2
    assert (here / "run" / "model.safetensors").exists()


def test_without_a_checkpoint_a_run_cannot_be_longer(here):
    small("images", output="run")
    shutil.rmtree(here / "run" / "checkpoints")
    before = weights(here / "run")
    with pytest.raises(ValueError, match=r"no good checkpoint any more; .* by --weights run"):
        ab.train(resume="run", epochs=2)
    assert equal_tensors(before, weights(here / "run"))
    assert ab.train(resume="run").output.name == "run"


class Killed(BaseException):
    pass


def test_an_interrupted_run_is_made_longer_or_shorter(here, monkeypatch):
    """Within its second epoch of three, two epochs still can be had, one cannot."""
    real, steps = torch.optim.SGD.step, itertools.count(1)

    def stop(self, *rest, **more):
        if next(steps) == 4:  # there are two steps in an epoch
            raise Killed
        return real(self, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", stop)
        with pytest.raises(Killed):
            small("images", output="run", epochs=3, checkpoint_minutes=0.0)
    with pytest.raises(ValueError, match="begun its epoch 2"):
        ab.train(resume="run", epochs=1)
    assert len(ab.train(resume="run", epochs=4).history) == 4


def test_run_directory_and_reported_accuracy(grey, tmp_path):
    result = ab.train("resnet8", block="ab", data=str(grey), **short(tmp_path, epochs=3))
    run = result.output
    assert {p.name for p in run.iterdir()} >= {
        *("config.yaml", "run.json", "metrics.csv", "model.safetensors"),
    }
    with (run / "metrics.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [float(r["epoch"]) for r in rows] == [1, 2, 3]
    assert float(rows[-1]["test_top1"]) == pytest.approx(result.test.top1, rel=1e-4)
    info = json.loads((run / "run.json").read_text())
    assert info["classes"] == ["dark", "grey", "white"]
    assert info["test"]["top1"] == result.test.top1
    assert result.test.images == 9
    assert any(p.name.startswith("events") for p in (run / "tensorboard").iterdir())
    # the weights on disk are those that were measured, and a network without us can hold them
    assert ab.evaluate(run).top1 == result.test.top1
    model = ab.create_model("resnet8", block="ab", num_classes=3)
    model.load_state_dict(load_file(run / "model.safetensors"))
    # `train --config RUN/config.yaml` repeats it to the bit
    again = TrainConfig.from_yaml((run / "config.yaml").read_text())
    twin = ab.train(again, output=str(tmp_path / "twin"))
    first, second = (load_file(r / "model.safetensors") for r in (run, twin.output))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    other = ab.train(again, output=str(tmp_path / "other"), seed=1)
    third = load_file(other.output / "model.safetensors")
    assert not torch.equal(first["conv1.weight"], third["conv1.weight"])


@forks
def test_a_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same_end(
    data, reference, tmp_path
):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(7))
    newest = checkpoint.load(run)[0].path
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    said = finish(data, run, tmp_path).replace("\n", "")
    assert f"{newest.name} is damaged" in said
    assert_equal_ends(reference(), run)


@forks
def test_all_checkpoints_damaged_starts_anew(data, reference, tmp_path):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(4))
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"")
    said = " ".join(finish(data, run, tmp_path).split())
    assert "there is no good checkpoint" in said
    assert_equal_ends(reference(), run)


@forks
def test_a_run_that_was_moved_goes_on(data, reference, tmp_path):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(6))
    moved = tmp_path / "deep" / "moved"
    moved.parent.mkdir()
    run.rename(moved)
    finish(data, moved, tmp_path)
    assert_equal_ends(reference(), moved)
    assert not run.exists()


def test_another_runs_checkpoint_is_not_gone_on_from(two_runs, tmp_path, capsys):
    """It is further than the run itself, and would win."""
    longer = train_digits(tmp_path / "longer", epochs=3)
    run = shutil.copytree(two_runs / "s1", tmp_path / "run")
    for file in (longer.output / "checkpoints").glob("*.safetensors"):
        shutil.copy(file, run / "checkpoints")
    kept = contents(run / "checkpoints")
    ab.train(resume=run, epochs=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "is of another run and is left alone" in told
    assert "going on from" in told
    assert "epoch0001" in told.partition("going on from")[2]
    train_digits(tmp_path / "two", epochs=2)
    assert {n for n in kept if n != "manifest.json"} <= set(contents(run / "checkpoints"))
    saved, _ = checkpoint.load(run, files.read_json(run / "run.json")["id"])
    assert saved.values["epoch"] == 2


def test_another_runs_whole_checkpoint_folder_is_not_gone_on_from(two_runs, run):
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(two_runs / "s2" / "checkpoints", run / "checkpoints")
    ab.train(resume=run)
    assert equal_weights(run, two_runs / "s1")


def test_damaged_weights_without_a_checkpoint_are_not_trained_over(run):
    flip(run / "model.safetensors")
    shutil.rmtree(run / "checkpoints")
    kept = (run / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="no good checkpoint any more"):
        ab.train(resume=run)
    assert (run / "model.safetensors").read_bytes() == kept
