"""Training with fused networks."""

import json

import pytest

import accuracy_booster as ab


def test_training_is_fused_where_it_is_asked_for_and_measured_folded(tmp_path):
    given = {"block": "ab", "epochs": 1, "device": "cpu", "compile": "off", "image_size": 8}
    plain = ab.train("resnet8", **given, output=tmp_path / "plain")
    fused = ab.train("resnet8", **given, fuse="on", output=tmp_path / "fused")
    decided = [
        json.loads((tmp_path / n / "run.json").read_text())["decided"] for n in ("plain", "fused")
    ]
    assert decided == [{"compile": False, "fuse": False}, {"compile": False, "fuse": True}]
    assert fused.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-3)
    # measured layer by layer, as it will be again, and folded
    assert ab.evaluate(tmp_path / "fused").loss == fused.test.loss
    assert ab.evaluate(tmp_path / "fused", fold=True).loss == pytest.approx(
        fused.test.loss, rel=1e-4
    )


def test_a_fused_run_that_was_interrupted_stays_fused(tmp_path, monkeypatch):
    from accuracy_booster.training import trainer

    given = {"block": "ab", "epochs": 2, "device": "cpu", "compile": "off", "fuse": "on"}
    whole = ab.train("resnet8", **given, image_size=8, output=tmp_path / "whole")
    step = trainer.Trainer.train_step
    seen = []

    def stopping(self, batch):
        if self.epoch == 1 and not seen:
            seen.append(self.step)
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(trainer.Trainer, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        ab.train("resnet8", **given, image_size=8, output=tmp_path / "cut")
    again = ab.train(resume=tmp_path / "cut")
    assert again.test == whole.test
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert a == b
