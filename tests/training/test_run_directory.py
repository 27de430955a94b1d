"""A run's files: damaged or changed ones are told, and a longer run survives a kill."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file
from support.trainings import (
    contents,
    equal_tensors,
    equal_weights,
    flip,
    small,
    train_digits,
    weights,
)

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.cli import main
from accuracy_booster.training import (
    list_runs,
    run_directory,
)

pytestmark = pytest.mark.filterwarnings("ignore")


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
            patch.setattr("accuracy_booster.training.trainer.Trainer.train_step", killed)
        with pytest.raises(Killed):
            ab.train(resume="run", epochs=3)
    longer = instant in ("model.safetensors", "first step")  # config.yaml has the new length
    listed = next(found for found in list_runs(".") if found.path.name == "run")
    state = "stopped" if longer else "finished"
    assert (listed.epoch, listed.epochs, listed.state) == (1, 3 if longer else 1, state)
    if longer:
        with pytest.raises(
            ValueError, match=r"has not ended.*: accuracy-booster train --resume run"
        ):
            ab.evaluate("run")
        ab.train(resume="run")
    else:
        assert equal_tensors(weights(here / "run"), first)
        assert ab.evaluate("run").images == 8
        ab.train(resume="run", epochs=3)
    assert equal_tensors(weights(here / "run"), weights(here / "whole"))
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["lengthened"] == [{"from": 1, "to": 3, "at": 1}]


def killed(*_):
    raise Killed


def test_a_length_that_never_came_to_be_is_not_told(here):
    """Killed between run.json and config.yaml, and then trained for another length."""
    small("images", output="run")
    opened, _config = run_directory.Run.open(here / "run")
    opened.write_info({"lengthened": [{"from": 1, "to": 9, "at": 1}]})
    ab.train(resume="run", epochs=2)
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["lengthened"] == [{"from": 1, "to": 2, "at": 1}]


def test_a_published_run_without_metrics_is_measured(here):
    result = small("images", output="run")
    (here / "run" / "metrics.csv").unlink()
    assert ab.evaluate("run") == result.test


def of_another_run(path):
    shutil.copy(path.parent.parent / "other.safetensors", path)


def of_another_program(path):
    save_file(load_file(path), path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, of_another_run, of_another_program, cut, empty])
def test_weights_that_are_not_the_runs_are_told_and_made_again(damage, two_runs, run, capsys):
    shutil.copy(two_runs / "s2" / "model.safetensors", run.parent / "other.safetensors")
    damage(run / "model.safetensors")
    with pytest.raises(ValueError, match=r"damaged|of another run"):
        ab.evaluate(run)
    result = ab.train(resume=run)
    assert "is damaged" in capsys.readouterr().err
    assert equal_weights(run, two_runs / "s1")
    assert ab.evaluate(run, device="cpu") == result.test
    before = contents(run)
    ab.train(resume=run)
    assert contents(run) == before


@pytest.mark.parametrize("damage", [flip, of_another_run])
def test_damaged_weights_are_no_start(damage, two_runs, run, tmp_path):
    shutil.copy(two_runs / "s2" / "model.safetensors", run.parent / "other.safetensors")
    damage(run / "model.safetensors")
    for start in (run, run / "model.safetensors"):
        with pytest.raises(ValueError, match=r"is damaged|is of another run"):
            train_digits(tmp_path / "x", weights=str(start))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b""),
        ("run.json", b"{}"),
        ("run.json", b"[" * 100_000),
        ("run.json", b"null"),
        ("config.yaml", b"[" * 100_000),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b""),
    ],
)
def test_damaged_files_of_a_run_are_one_line(name, content, run, capsys):
    (run / name).write_bytes(content)
    for given in (["eval", str(run)], ["train", "--resume", str(run)]):
        assert main(given) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert str(run) in told
        assert len(told) < 1000
    (listed,) = list_runs(run)
    assert listed.state.startswith("damaged")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_run_json_is_not_waited_for(run):
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    with pytest.raises(ValueError, match="no regular file"):
        ab.evaluate(run)
    assert list_runs(run)[0].state.startswith("damaged")


def test_a_changed_result_is_told(run):
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"top1"', '"top1": 99.9, "top0"'))
    with pytest.raises(ValueError, match="was changed since it was written"):
        ab.evaluate(run)


def test_changed_settings_are_told(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("lr: 0.1", "lr: 0.2"))
    for work in (ab.evaluate, lambda run: ab.train(resume=run, epochs=2)):
        with pytest.raises(ValueError, match=r"other settings than those"):
            work(run)
