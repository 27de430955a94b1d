"""What a training reports of its epochs, and what it measures on."""

import json
import math
from dataclasses import replace

from support.trainings import SIZE_32, short

import accuracy_booster as ab
from accuracy_booster.training import classification, trainer


def test_the_last_epoch_is_reported_not_the_best(grey, tmp_path, monkeypatch):
    reported = iter([90.0, 50.0, 70.0])
    real = classification.measure
    monkeypatch.setattr(
        classification,
        "measure",
        lambda *a: replace(real(*a), top1=next(reported)),
    )
    result = ab.train("resnet8", data=str(grey), **short(tmp_path, epochs=3))
    assert [r["test_top1"] for r in result.history] == [90.0, 50.0, 70.0]
    assert result.test.top1 == 70.0


def test_validation_split_keeps_the_test_set_out(grey, tmp_path, monkeypatch):
    measured = []
    real = trainer.Trainer.measure

    def spy(self, split, *rest):
        measured.append(split)
        return real(self, split, *rest)

    monkeypatch.setattr(trainer.Trainer, "measure", spy)
    options = short(tmp_path, epochs=2, validation=0.4)
    result = ab.train("resnet8", data=str(grey), **options)
    assert measured == ["validation", "validation", "test"]
    assert "validation_top1" in result.history[0]
    assert "test_top1" not in result.history[0]
    assert result.test.images == 9


def test_a_ragged_last_image_does_not_break_training(grey, tmp_path):
    """15 images in batches of 7: the image left over alone would give a gate's norm no spread."""
    result = ab.train("resnet8", block="ab", data=str(grey), **short(tmp_path, batch_size=7))
    assert result.history[0]["train_loss"] > 0


def test_digits_are_learned(tmp_path):
    """Not a stub: a small network with AB learns real images in a few epochs."""
    result = ab.train("resnet8", block="ab", **short(tmp_path, epochs=6, batch_size=64))
    assert result.test.top1 > 85
    assert result.history[0]["train_loss"] > 1.5 * result.history[-1]["train_loss"]


def test_an_image_left_over_is_no_batch_of_one(folder, tmp_path):
    """24 images in batches of 23: batch norms would refuse, or learn from, a batch of one."""
    options = {**SIZE_32, "batch_size": 23, "output": str(tmp_path / "run")}
    assert math.isfinite(ab.train("resnet8", data=str(folder), **options).history[0]["train_loss"])


def test_what_trained_weights_could_do_before_is_told(grey, tmp_path, capfd):
    first = ab.train("resnet8", data=str(grey), **short(tmp_path, epochs=2))
    capfd.readouterr()
    options = {**short(tmp_path, epochs=1), "output": str(tmp_path / "second")}
    second = ab.train("resnet8", data=str(grey), weights=str(first.output), **options)
    told = f"before training: test top-1 {first.test.top1:.2f} %"
    assert told in "".join(capfd.readouterr())
    before = json.loads((second.output / "run.json").read_text())["before"]
    assert before == {
        "split": "test",
        **{name: getattr(first.test, name) for name in ("loss", "top1", "top5")},
    }
    assert "before training" in (second.output / "report.html").read_text()
    more = {**options, "output": str(tmp_path / "third")}
    ab.train("resnet8", data=str(grey), **more)  # random weights can nothing yet
    assert "before training" not in "".join(capfd.readouterr())
