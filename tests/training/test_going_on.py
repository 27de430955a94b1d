"""A run goes on from everywhere, with data that have moved, and for more epochs."""

import json
import shutil
import warnings

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.files import make_run_old

from accuracy_booster.training import classification, network_building, opening_data, run_to_end, trainer
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.freezing import freeze
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.learning_rate import rate_factor, set_rates
from accuracy_booster.training.network_building import build_network
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.optimizer import make_optimizer
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.trainer import Trainer
from support.interruptions import before_the_result, poisoned
import itertools
from support.trainings import DIGITS, SIZE_32, SMALL, Plain, assert_equal_ends, contents, digit_words, end_state, equal_tensors, equal_weights, finish, flip, kill, logits_of, make_data, new_trainer, options, randomise, replace_network, run_or_resume, short, signalled, small, stored, train_digits, weights
import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.cli import main
from accuracy_booster.training import list_runs, resolve, run_directory













def change(path, **values):
    """Rewrite a run's configuration, as an older version would have written it."""
    (path / "config.yaml").write_text(yaml.safe_dump(stored(path) | values))


def make_old(path):
    """Make it a run of an older version: a relative path and no marks of its data."""
    change(path, data="images")
    make_run_old(path, "data", "keeps_head")



def test_a_run_keeps_absolute_paths_and_marks_of_its_data(here):
    result = small("images", output="run", data_dir="cache")
    assert result.config.data == str(here / "images") == stored(here / "run")["data"]
    assert stored(here / "run")["data_dir"] == str(here / "cache")
    marks = json.loads((here / "run" / "run.json").read_text())["data"]
    assert {split: mark["images"] for split, mark in marks.items()} == {"train": 16, "test": 8}
    digits = ab.train("resnet8", epochs=1, device="cpu", output="digits")
    assert digits.config.data == "digits"
    assert list(json.loads((here / "digits" / "run.json").read_text())["data"]) == ["train", "test"]
    named = resolve("resnet8", data="./")
    assert named.data_name == here.name


def test_eval_and_resume_from_another_directory_take_the_runs_own_data(here, monkeypatch):
    result = small("images", output="run")
    monkeypatch.chdir(here / "elsewhere")  # it has other images under the same relative path
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ab.evaluate("../run") == result.test
    longer = ab.train(resume="../run", epochs=2)
    monkeypatch.chdir(here)
    again = small("images", output="again", epochs=2)
    assert longer.config.data == again.config.data == str(here / "images")


def test_data_that_have_moved_are_told_and_can_be_given(here, capsys):
    result = small("images", output="run")
    (here / "images").rename(here / "moved")
    told = "has its data in .*images'.* no such directory here; give their place by --data"
    with pytest.raises(ValueError, match=told):
        ab.train(resume="run", epochs=2)
    with pytest.raises(ValueError, match=told):
        ab.evaluate("run")
    assert main(["eval", "run"]) == 2
    assert ab.evaluate("run", "moved") == result.test
    assert main(["eval", "run", "--data", "moved"]) == 0
    words = ["train", "--resume", "run", "--epochs", "2", "--data", "moved"]
    assert main(words) == 0
    assert stored(here / "run")["data"] == str(here / "moved")
    assert ab.evaluate("run").images == 8  # from now on without a place


def test_other_data_are_refused_on_resume_and_told_on_eval(here):
    small("images", output="run")
    before = {p.name: p.read_bytes() for p in (here / "run").iterdir() if p.is_file()}
    with pytest.raises(ValueError, match="train split has 17 images and had 16 images, the test"):
        ab.train(resume="run", epochs=2, data="elsewhere/images")
    assert before == {p.name: p.read_bytes() for p in (here / "run").iterdir() if p.is_file()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ab.evaluate("run", "elsewhere/images").images == 9  # other data, as asked for
    shutil.copy(here / "images/test/a/000.png", here / "images/test/a/more.png")
    with pytest.warns(UserWarning, match="test split has 9 images and had 8 images"):
        assert ab.evaluate("run").images == 9
    (here / "images/test/a/more.png").unlink()
    (here / "images/test/a/000.png").rename(here / "images/test/b/more.png")
    with pytest.warns(UserWarning, match="the test split has other labels in its 8 images"):
        ab.evaluate("run")
    with pytest.raises(ValueError, match="other labels in its 8 images; give their place"):
        ab.train(resume="run", epochs=2)


def test_a_bad_image_is_no_other_data(here):
    """Images that became unreadable are counted and bounded as ever: the set is the same."""
    small("images", output="run", augment="resized_crop")
    (here / "images/train/a/000.png").write_bytes(b"no image")
    assert len(ab.train(resume="run", epochs=2).history) == 2


def test_runs_of_an_older_version_go_on(here, capsys, monkeypatch):
    result = small("images", output="run")
    make_old(here / "run")
    assert ab.evaluate("run") == result.test
    assert "taken to be" in capsys.readouterr().err
    assert len(ab.train(resume="run", epochs=2).history) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"a path relative to where it was started, which is taken to be {here}/images" in told
    monkeypatch.chdir(here / "run")
    with pytest.raises(ValueError, match=r"'images', a path relative to .* give their place"):
        ab.train(resume=here / "run", epochs=3)
    assert len(ab.train(resume=here / "run", epochs=3, data=here / "images").history) == 3


def test_a_comparison_goes_on_from_another_directory(here, monkeypatch):
    options = {"blocks": ["none", "ab"], "seeds": 1, "epochs": 1, **SMALL}
    ab.compare("resnet8", data="images", output="out", **options)
    shutil.rmtree(here / "out" / "ab-s0")  # as if it had been killed before it began
    monkeypatch.chdir(here / "elsewhere")
    result = ab.compare(resume="../out")
    assert {run.config.data for run in result.runs} == {str(here / "images")}
    (here / "images").rename(here / "moved")
    shutil.rmtree(here / "out" / "ab-s0")
    with pytest.raises(
        ValueError,
        match=r"out has its data in .*images' and there is no such directory here; .*--data",
    ):
        ab.compare(resume="../out")
    result = ab.compare(resume="../out", data="../moved")
    assert result.runs[1].config.data == str(here / "moved")
    with pytest.raises(ValueError, match="leave out epochs"):
        ab.compare(resume="../out", epochs=3)



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


INSTANTS = ["run.json", "config.yaml", "model.safetensors", "first step"]


@pytest.mark.parametrize("instant", INSTANTS)
def test_killed_as_it_gets_longer_it_ends_the_same(instant, here, monkeypatch):
    """Killed before each of the three changes of its files, and after them."""
    options = {"schedule": "cosine", "lr": 0.05}
    small("images", output="run", epochs=1, **options)
    shutil.copytree(here / "run", here / "whole")
    first = weights(here / "run")
    ab.train(resume="whole", epochs=3)
    real_write, real_unlink = files.write, type(here).unlink

    def write(path, content, **how):
        if path.name == instant:
            raise Killed
        real_write(path, content, **how)

    def unlink(path, missing_ok=False):
        if path.name == instant:
            raise Killed
        real_unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "write", write)
        patch.setattr(files, "write", write)
        patch.setattr(type(here), "unlink", unlink)
        if instant == "first step":
            patch.setattr("accuracy_booster.training.trainer.Trainer.train_step", kill)
        with pytest.raises(Killed):
            ab.train(resume="run", epochs=3)
    longer = instant in ("model.safetensors", "first step")  # config.yaml has the new length
    listed = next(found for found in list_runs(".") if found.path.name == "run")
    state = "stopped" if longer else "finished"
    assert (listed.epoch, listed.epochs, listed.state) == (1, 3 if longer else 1, state)
    if longer:
        with pytest.raises(ValueError, match="has not ended"):
            ab.evaluate("run")
        ab.train(resume="run")
    else:
        assert equal_tensors(weights(here / "run"), first)
        assert ab.evaluate("run").images == 8
        ab.train(resume="run", epochs=3)
    assert equal_tensors(weights(here / "run"), weights(here / "whole"))
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["lengthened"] == [{"from": 1, "to": 3, "at": 1}]


def kill(*_):
    raise Killed


def test_a_length_that_never_came_to_be_is_not_told(here):
    """Killed between run.json and config.yaml, and then trained for another length."""
    small("images", output="run")
    opened, _config = run_directory.Run.open(here / "run")
    opened.write_info({"lengthened": [{"from": 1, "to": 9, "at": 1}]})
    ab.train(resume="run", epochs=2)
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["lengthened"] == [{"from": 1, "to": 2, "at": 1}]


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


def test_a_published_run_without_metrics_is_measured(here):
    result = small("images", output="run")
    (here / "run" / "metrics.csv").unlink()
    assert ab.evaluate("run") == result.test
