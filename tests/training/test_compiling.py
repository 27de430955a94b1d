"""Whether a run's steps are compiled is decided once, and kept."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from support.interruptions import (
    in_the_step,
)
from support.processes import forks, in_child, wait
from support.trainings import (
    assert_equal_ends,
    run_or_resume,
)

import accuracy_booster as ab
from accuracy_booster.ops import native
from accuracy_booster.training.compiling import StepToCompile, fuses


@forks
def test_a_compiled_run_keeps_to_it_and_goes_on_to_the_same_end(data, tmp_path):
    given = {"compile": "on", "block": "none", "accumulate": 1, "mixup": 0.0, "cutmix": 0.0}

    def work(run, plant=lambda: None):
        def inside():
            real = torch.compile

            def compile(network, **options):
                print("compiled", flush=True)
                return real(network, backend="aot_eager", **options)

            torch.compile = compile
            plant()
            run_or_resume(data, run, **given)

        return wait(in_child(inside, tmp_path / "log"))

    assert work(tmp_path / "whole") == 0, (tmp_path / "log").read_text()
    run = tmp_path / "run"
    assert work(run, lambda: in_the_step(6)) == -signal.SIGKILL
    info = json.loads((run / "run.json").read_text())
    assert info["decided"] == {"compile": True, "fuse": True}
    text = (run / "config.yaml").read_text()
    assert "compile: 'on'" in text
    (run / "config.yaml").write_text(text.replace("compile: 'on'", "compile: 'off'"))
    assert work(run) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("compiled\n") == 3  # what was decided holds
    assert json.loads((run / "run.json").read_text())["decided"] == {"compile": True, "fuse": True}
    assert_equal_ends(tmp_path / "whole", run)


@forks
def test_the_decision_not_to_compile_is_kept(data, reference):
    info = json.loads((reference() / "run.json").read_text())
    assert info["decided"] == {"compile": False, "fuse": native.library() is not None}


def test_training_is_fused_where_it_is_asked_for_and_measured_folded(tmp_path):
    given = {"block": "ab", "epochs": 1, "device": "cpu", "compile": "off", "image_size": 8}
    plain = ab.train("resnet8", **given, fuse="off", output=tmp_path / "plain")
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


def step_of(network, **changes):
    """A step on the CPU that is to be decided on."""
    given = {"compile": "off", "fuse": "auto", "network": network, "wrapped": network}
    given |= {"input_size": (3, 8, 8), "device": torch.device("cpu"), "processes": 1, "steps": 1}
    return StepToCompile(**given | dict.fromkeys(("loss", "first_batch", "say")) | changes)


def test_an_eager_step_is_fused_on_the_cpu_where_that_is_fast(monkeypatch):
    boosted, bare = (ab.create_model("resnet8", block=block) for block in ("ab", "none"))
    monkeypatch.setattr(native, "library", object)
    assert fuses(step_of(boosted), compile=False)
    assert not fuses(step_of(bare), compile=False)
    assert not fuses(step_of(boosted, device=torch.device("cuda")), compile=False)
    monkeypatch.setattr(native, "library", lambda: None)
    assert not fuses(step_of(boosted), compile=False)
    assert fuses(step_of(bare), compile=True)
    assert fuses(step_of(boosted, fuse="on"), compile=False)
    assert not fuses(step_of(boosted, fuse="off"), compile=True)


def test_a_fused_run_that_was_interrupted_stays_fused(tmp_path, monkeypatch):
    from accuracy_booster.training import trainer

    given = {"block": "ab", "epochs": 2, "device": "cpu", "compile": "off", "fuse": "on"}
    whole = ab.train("resnet8", **given, image_size=8, output=tmp_path / "whole")
    step = trainer.Trainer.train_step
    seen = []

    def stopping(self, *given):
        if self.state.epoch == 1 and not seen:
            seen.append(self.state.step)
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(trainer.Trainer, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        ab.train("resnet8", **given, image_size=8, output=tmp_path / "cut")
    again = ab.train(resume=tmp_path / "cut")
    assert again.test == whole.test
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert a == b
