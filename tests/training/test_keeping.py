"""The network of the best epoch on the validation split is kept, measured once, and not lost."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file
from support.trainings import DIGITS, equal_tensors, flip, weights

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.cli import main
from accuracy_booster.training import classification, list_runs, measuring, run_directory, trainer
from accuracy_booster.training.saving import Saving

pytestmark = pytest.mark.filterwarnings("ignore")
# a constant rate, so that the first two epochs of four are a training of two epochs
OPTIONS = {**DIGITS, "block": "none", "validation": 0.2, "schedule": "step", "milestones": (0.99,)}


def scripted(monkeypatch, *found):
    """Let the validation split of epoch i have the top-1 found[i]; the test split has its own."""
    real, values = measuring.measure, iter(found)

    def measure(network, loader, *rest):
        metrics = real(network, loader, *rest)
        if metrics.images == 360:  # the test split
            return metrics
        return replace(metrics, top1=next(values))

    monkeypatch.setattr(classification, "measure", measure)


def train(output, **more):
    return ab.train(**{**OPTIONS, "epochs": 4, **more}, output=str(output))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of 4 epochs, the second of which is the best; and one of its first two epochs."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, 10.0, 60.0, 60.0, 50.0)
        best = train(folder / "best")
    train(folder / "two", epochs=2, validation=0.2, keep="last")
    return folder, best


def copied(kept, tmp_path):
    return shutil.copytree(kept[0] / "best", tmp_path / "run")


def info(run):
    return files.read_json(run / "run.json")


def test_the_best_epoch_is_kept_and_the_first_of_equals(kept):
    folder, best = kept
    assert (best.best_epoch, best.kept_epoch, best.epochs_done) == (2, 2, 4)
    run = best.output
    assert equal_tensors(weights(run), weights(folder / "two"))
    assert equal_tensors(load_file(run / "best.safetensors"), weights(run))
    assert ab.evaluate(run).top1 == best.test.top1
    known = info(run)["best"]
    assert (known["epoch"], known["metric"], known["value"]) == (2, "validation_top1", 60.0)
    assert known["sha256"] == files.unpack(run / "best.safetensors").sha256
    assert "test_top1" not in best.history[0]


def test_the_last_one_is_kept_where_it_is_wanted(kept, tmp_path, monkeypatch):
    scripted(monkeypatch, 10.0, 60.0, 60.0, 50.0)
    last = train(tmp_path / "run", keep="last")
    assert (last.best_epoch, last.kept_epoch) == (2, 4)
    assert equal_tensors(load_file(last.output / "best.safetensors"), weights(kept[1].output))
    assert not equal_tensors(weights(last.output), weights(kept[1].output))


def test_a_moving_average_is_what_is_kept(tmp_path, monkeypatch):
    scripted(monkeypatch, 60.0, 50.0)
    run = train(tmp_path / "run", epochs=2, ema=0.5).output
    scripted(monkeypatch, 60.0)
    assert equal_tensors(weights(run), weights(train(tmp_path / "one", epochs=1, ema=0.5).output))


def test_the_test_split_is_measured_once(tmp_path, monkeypatch):
    measured, real = [], trainer.Trainer.measure

    def spy(self, split, *rest):
        measured.append(split)
        return real(self, split, *rest)

    monkeypatch.setattr(trainer.Trainer, "measure", spy)
    scripted(monkeypatch, 60.0, 50.0)
    train(tmp_path / "run", epochs=2, patience=3)
    assert measured == ["validation", "validation", "test"]


class Killed(BaseException):
    pass


def killed_at(monkeypatch, kind, name, number, before=True):
    real, calls = getattr(kind, name), []

    def call(self, *rest, **more):
        calls.append(name)
        if len(calls) == number and before:
            raise Killed
        out = real(self, *rest, **more)
        if len(calls) == number:
            raise Killed
        return out

    monkeypatch.setattr(kind, name, call)


@pytest.mark.parametrize(
    ("kind", "name", "number", "before"),
    [
        (trainer.Trainer, "train_step", 5, True),  # in the third epoch
        (Saving, "save", 2, False),  # the checkpoint of the best epoch is there, its file is not
        (run_directory.Run, "end", 1, True),  # all epochs are over
    ],
    ids=["step", "checkpoint", "end"],
)
def test_a_killed_run_keeps_the_same_bytes(kept, tmp_path, monkeypatch, kind, name, number, before):
    whole, run = kept[1].output, tmp_path / "run"
    with monkeypatch.context() as patch:
        scripted(patch, 10.0, 60.0, 60.0, 50.0)
        killed_at(patch, kind, name, number, before)
        with pytest.raises(Killed):
            train(run)
    done = len(run_directory.Run(run).history())
    with monkeypatch.context() as patch:
        scripted(patch, *[10.0, 60.0, 60.0, 50.0][done:])
        resumed = ab.train(resume=run)
    assert (resumed.best_epoch, resumed.kept_epoch) == (2, 2)
    for file in ("best.safetensors", "model.safetensors"):
        assert (run / file).read_bytes() == (whole / file).read_bytes(), file


def test_damage_is_noticed_and_mended(kept, tmp_path, capsys, monkeypatch):
    scripted(monkeypatch, 55.0)
    run = copied(kept, tmp_path)
    whole = (run / "best.safetensors").read_bytes()
    flip(run / "model.safetensors")
    assert ab.train(resume=run).weights_sha256 == kept[1].weights_sha256
    flip(run / "best.safetensors")  # the final weights are the same
    ab.train(resume=run, epochs=5)
    assert (run / "best.safetensors").read_bytes() == whole
    run = shutil.copytree(kept[0] / "best", tmp_path / "both")
    flip(run / "best.safetensors")
    flip(run / "model.safetensors")
    capsys.readouterr()
    assert ab.train(resume=run).kept_epoch == 4
    told = " ".join(capsys.readouterr().err.split())
    assert "the network of the best epoch 2 is lost: " in told
    assert "the network of the last epoch is kept" in told


def test_overwriting_removes_it(kept, tmp_path):
    run = copied(kept, tmp_path)
    train(run, overwrite=True, epochs=1, validation=0.0)
    assert not (run / "best.safetensors").exists()


def test_a_run_of_an_older_version_keeps_the_last(kept, tmp_path):
    run = copied(kept, tmp_path)
    known = {k: v for k, v in info(run).items() if k not in ("keep", "best", "kept_epoch")}
    files.write_json(run / "run.json", known)
    (run / "best.safetensors").unlink()
    text = (run / "config.yaml").read_text().splitlines()
    text = [line for line in text if not line.startswith(("keep", "patience", "optimizer"))]
    (run / "config.yaml").write_text("\n".join(text))
    result = ab.train(resume=run, epochs=5)
    assert (result.best_epoch, result.kept_epoch) == (None, 5)
    assert not (run / "best.safetensors").exists()


def test_early_stopping_ends_the_run(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    scripted(monkeypatch, 10.0, 60.0, 50.0, 60.0)
    result = train(run, epochs=9, patience=2)
    assert (result.best_epoch, result.epochs_done, result.stopped_early) == (2, 4, True)
    told = " ".join(capsys.readouterr().err.split())
    assert "stopped early after epoch 4: in 2 epochs nothing was better" in told
    assert list_runs(tmp_path)[0].state == "finished"
    assert ab.evaluate(run).top1 == result.test.top1

    assert ab.train(resume=run) == result
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "stopped early after epoch 4, and there is nothing to do; --epochs N, more than 9" in told
    )

    # patience begins anew where the run is made longer, also after a kill
    with monkeypatch.context() as patch:
        scripted(patch, 55.0, 56.0, 57.0)
        killed_at(patch, trainer.Trainer, "train_step", 3)
        with pytest.raises(Killed):
            ab.train(resume=run, epochs=12)
    scripted(monkeypatch, 56.0, 57.0)
    longer = ab.train(resume=run)
    assert (longer.best_epoch, longer.epochs_done, longer.kept_epoch) == (2, 6, 2)


@pytest.mark.parametrize("more", [{"patience": 2}, {"keep": "best"}])
def test_both_need_a_validation_split(more, tmp_path):
    with pytest.raises(ValueError, match=r"needs a validation split .* --validation 0\.1"):
        train(tmp_path / "run", validation=0.0, **more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [{"patience": 2}, {"keep": "best"}])
def test_without_test_images_the_error_says_what_the_share_is(make_folder, tmp_path, more):
    root = make_folder({"a": 10, "b": 10}, size=(16, 16))
    told = (
        r"the share that validation=0\.2 holds out is the test split; give data with a test split"
    )
    with pytest.raises(ValueError, match=told):
        ab.train("resnet8", data=str(root), validation=0.2, output=str(tmp_path / "r"), **more)


def test_the_error_says_that_val_is_the_test_split(make_folder, tmp_path):
    root = make_folder({f"{s}/{c}": 4 for s in ("train", "val") for c in "ab"}, size=(16, 16))
    told = r"val/ alone have val/ as the test split\); hold one out with --validation 0\.1"
    with pytest.raises(ValueError, match=told):
        ab.train("resnet8", data=str(root), patience=2, output=str(tmp_path / "r"))


def test_the_closing_line_says_which(tmp_path, monkeypatch, capsys):
    scripted(monkeypatch, 60.0, 50.0)
    words = [f"--{k}={v}" for k, v in OPTIONS.items() if k not in ("milestones", "epochs")]
    words += ["--epochs=2", f"--output={tmp_path / 'run'}"]
    assert main(["train", *words]) == 0
    told = "after 2 epochs, of which epoch 1 is kept, the best on the validation split"
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "run" / "report.html").read_text()
    assert main(["train", "--resume", str(tmp_path / "run"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["best_epoch"], value["kept_epoch"], value["epochs_done"]) == (1, 1, 2)
