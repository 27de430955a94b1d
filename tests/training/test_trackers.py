"""Trackers of experiments: what they get, that they go on, and that they do not end a training."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from support.trainings import train_digits

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def recorder(monkeypatch):
    """A tracker of the user, registered as accelerate's documentation says; the calls it got."""
    calls = []

    class Recorder(GeneralTracker):
        name, requires_logging_directory = "recorder", True

        def __init__(self, project, folder):
            super().__init__()
            calls.append(("made", project, folder))

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            calls.append(("config", values))

        def log(self, values, step=None, **more):
            calls.append(("log", step, values))

        def finish(self):
            calls.append(("finish",))

    monkeypatch.setattr(tracking, "LOGGER_TYPE_TO_CLASS", {**tracking.LOGGER_TYPE_TO_CLASS})
    tracking.register_tracker_class(Recorder)
    return calls


def test_a_tracker_gets_the_settings_and_every_epoch(recorder, tmp_path, capsys):
    run = tmp_path / "run"
    result = train_digits(run, epochs=2, log_with="recorder")
    assert [call[0] for call in recorder] == ["made", "config", "log", "log", "finish"]
    assert recorder[0][1:] == ("accuracy-booster", str(run))
    settings = recorder[1][1]
    assert (settings["model"], settings["lr"], settings["epochs"]) == ("resnet8", 0.1, 2)
    for (_, step, values), row in zip(recorder[2:4], result.history, strict=True):
        assert step == row["epoch"]
        assert values["train/loss"] == pytest.approx(row["train_loss"], rel=1e-5)
        assert values["test/top1"] == pytest.approx(row["test_top1"], rel=1e-5)
    assert not (run / "tensorboard").exists()

    recorder.clear()
    capsys.readouterr()
    ab.train(resume=run, epochs=3)
    assert [call[:2] for call in recorder[1:]] == [("log", 3), ("finish",)]
    assert "recorder gets a new run: it cannot go on" in capsys.readouterr().err


def test_it_may_change_on_resume(recorder, tmp_path):
    first = train_digits(tmp_path / "run", log_with="none")
    assert not (tmp_path / "run" / "tensorboard").exists()
    ab.train(resume=first.output, epochs=2, log_with="tensorboard, recorder")
    assert (tmp_path / "run" / "tensorboard").exists() == ("tensorboard" in sys.modules)
    assert [call[0] for call in recorder] == ["made", "config", "log", "finish"]


def test_a_tracker_that_fails_does_not_end_the_training(recorder, tmp_path, monkeypatch, capsys):
    def fail(self, values, step=None):
        recorder.append(("failed", step))
        raise ConnectionError("no network")

    monkeypatch.setattr(tracking.LOGGER_TYPE_TO_CLASS["recorder"], "log", fail)
    assert len(train_digits(tmp_path / "run", epochs=2, log_with="recorder").history) == 2
    assert [call[0] for call in recorder] == ["made", "config", "failed"]
    told = capsys.readouterr().err
    assert "recorder failed, and the training goes on without it: no network" in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("wanbd", r"unknown tracker 'wanbd'; nearest: wandb"),
        ("tensorboard,swanlab", r"not installed; pip install swanlab, or leave swanlab out"),
        ("none,wandb", r"log_with='none,wandb' must be none, or names separated by commas"),
        ("", r"log_with='' must be none"),
    ],
)
def test_wrong_names_are_refused_before_training(given, message, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ValueError, match=message):
        train_digits(tmp_path / "run", log_with=given)
    assert not (tmp_path / "run").exists()


class FakeWandb(SimpleNamespace):
    """What accelerate's own tracker calls of wandb, recorded."""

    def __init__(self):
        self.begun, self.rows = [], []
        self.config = SimpleNamespace(update=lambda values, **more: None)

    def init(self, **given):
        self.begun.append(given)
        log = lambda values, step: self.rows.append((step, values))  # noqa: E731
        return SimpleNamespace(log=log, finish=lambda: None)


def test_wandb_goes_on_with_its_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    run = train_digits(tmp_path / "mine", log_with="wandb").output
    ab.train(resume=run, epochs=2)
    first, second = fake.begun
    assert first == second
    assert first == {
        **{"project": "accuracy-booster", "name": "mine", "resume": "allow"},
        "id": files.read_json(run / "run.json")["id"],
    }
    assert [step for step, _ in fake.rows] == [1, 2]


def test_a_tracker_that_cannot_start_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def refuse(**given):
        raise RuntimeError("no key\nfound")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    words = ["train", "--model=resnet8", "--epochs=1", "--device=cpu", "--log_with=wandb"]
    assert main([*words, f"--output={tmp_path / 'run'}"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "log_with: wandb cannot be started: no key found; go on without it by --res" in last
    assert main(["train", "--resume", str(tmp_path / "run"), "--log_with", "none"]) == 0
