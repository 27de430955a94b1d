"""What a training writes and shows after each epoch."""

from __future__ import annotations

import pytest

from accuracy_booster.files import read_json, write_json
from accuracy_booster.training import resolve
from accuracy_booster.training.epoch_log import EpochLog
from accuracy_booster.training.run_directory import Run

CONFIG = resolve("resnet8", epochs=2)
ROWS = [
    {"epoch": epoch, "train_loss": 1 / epoch, "images_per_second": speed}
    for epoch, speed in ((1, 0.1234), (2, 45.6))
]


class Display:
    """A progress display that keeps what it is told."""

    def __init__(self):
        self.done, self.notes = 0, []

    def add_task(self, label, *, total, completed, note):
        self.done = completed
        return label

    def advance(self, bar):
        self.done += 1

    def update(self, bar, *, note):
        self.notes.append(note)


def log(run, display, said=None):
    say = None if said is None else said.append
    return EpochLog(run, display, "resnet8", steps=8, done=3, config=CONFIG, say=say)


def test_lines_and_the_bar(tmp_path):
    display, said = Display(), []
    with log(Run(tmp_path), display, said) as made:
        made.step()
        for row in ROWS:
            made.tell(row, "test top-1 33.33 %")
    assert display.done == 4
    assert display.notes == ["test top-1 33.33 %"] * 2
    assert said == [
        "epoch 1/2  loss 1.000  test top-1 33.33 %  0.12 images/s",
        "epoch 2/2  loss 0.500  test top-1 33.33 %  46 images/s",
    ]


def test_the_files_of_a_run_and_their_list(tmp_path):
    pytest.importorskip("tensorboard")
    run = Run(tmp_path)
    run.info = {"files": []}
    with log(run, Display()) as made:
        made.write(ROWS[:1])
        assert run.history() == [pytest.approx(ROWS[0])]
        made.write(ROWS)
    assert run.history() == [pytest.approx(row) for row in ROWS]
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert read_json(tmp_path / "run.json")["files"] == [f"tensorboard/{file.name}"]


def test_a_run_of_an_older_version_gets_no_list(tmp_path):
    write_json(tmp_path / "run.json", {})
    with log(Run(tmp_path), Display()) as made:
        made.write(ROWS)
    assert read_json(tmp_path / "run.json") == {}


def test_processes_but_the_first_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with log(None, Display()) as made:
        made.write(ROWS)
    assert not list(tmp_path.iterdir())
