"""Trainings that are killed, stopped, starved and damaged: they go on to the same end, bit for bit.

Processes are forked, as in benchmarks/faults.py, which does the same at random instants.
"""

# N batch, C channels, H W space

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support.interruptions import (
    after_the_step,
    announce,
    around_a_rename,
    die,
    endless,
    full_disk,
    in_evaluation,
    in_half_a_write,
    in_the_loader,
    in_the_step,
)
from support.processes import cannot_fork, in_child, until, wait
from support.trainings import (
    assert_equal_ends,
    end_state,
    finish,
    kill,
    make_data,
    options,
    run_or_resume,
    signalled,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster import signals
from accuracy_booster.cli import main
from accuracy_booster.data import normalise
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import (
    checkpoint,
    classification,
    compiling,
    engine,
    list_runs,
    resolve,
    trainer,
)
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.lock import is_locked, locked

pytestmark = [pytest.mark.forks, cannot_fork]


# processes


# plants: each changes this process, which is a child


# data, runs, and whether they are equal


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """What every child would import anew."""
    for name in ("accelerate", "timm.utils", "torchvision.transforms.v2", "torch._dynamo"):
        importlib.import_module(name)
    if importlib.util.find_spec("tensorboard"):
        importlib.import_module("torch.utils.tensorboard")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """`reference(setup)`: the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("reference")

    def make(setup="files"):
        if not (folder / setup).exists():
            finish(data, folder / setup, folder, setup)
        return folder / setup

    return make


# kill -9


@pytest.mark.parametrize(
    ("plant", "setup"),
    [
        (lambda: in_the_step(1), "files"),
        (lambda: in_the_step(3), "files"),
        (lambda: after_the_step(6), "files"),
        (lambda: in_evaluation(2), "files"),
        (lambda: in_evaluation(6), "files"),
        (lambda: in_the_loader(20), "files"),
        (lambda: in_half_a_write(1), "files"),  # the first checkpoint
        (lambda: in_half_a_write(2), "files"),  # the first manifest
        (lambda: in_half_a_write(7), "files"),
        (lambda: around_a_rename(5, before=True), "files"),
        (lambda: around_a_rename(5, before=False), "files"),  # it is there, the manifest old
        (lambda: around_a_rename(6, before=True), "files"),
        (lambda: in_the_step(3), "worker"),
        (lambda: in_the_step(3), "drop"),  # no checkpoint yet
        (lambda: in_the_step(6), "drop"),  # one after the epoch
    ],
    ids=[
        *("first step", "step", "after step", "evaluation", "last evaluation", "loader"),
        *("first checkpoint", "first manifest", "checkpoint", "before rename", "after rename"),
        *("before the manifest's rename", "with a worker", "no checkpoint", "dropout"),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(data, reference, tmp_path, plant, setup):
    run = tmp_path / "run"
    kill(data, run, tmp_path, plant, setup)
    assert not (run / "model.safetensors").exists()
    said = finish(data, run, tmp_path, setup)
    assert "going on from" in said
    assert_equal_ends(reference(setup), run)


def test_a_run_that_is_killed_again_and_again(data, reference, tmp_path):
    run = tmp_path / "run"
    plants = [
        *(lambda: in_the_step(2), lambda: in_half_a_write(2), lambda: in_the_loader(3)),
        *(lambda: in_evaluation(1), lambda: around_a_rename(3, before=False)),
    ]
    for plant in plants:
        kill(data, run, tmp_path, plant)
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_killed_after_the_last_epoch_before_the_weights(data, reference, tmp_path):
    """All steps are done; only the end of the run is missing."""
    run = tmp_path / "run"

    def plant():
        engine.save_network = die

    kill(data, run, tmp_path, plant)
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_the_references_are_random_and_repeat(data, reference, tmp_path):
    """The equalities above would also hold for trainings in which nothing is random."""
    finish(data, tmp_path / "run", tmp_path, "drop")
    assert_equal_ends(reference("drop"), tmp_path / "run")
    run_seed = {**options(data, tmp_path / "other"), "seed": 4}
    log = tmp_path / "log"
    assert wait(in_child(lambda: ab.train(**run_seed) and 0, log)) == 0, log.read_text()
    first, second = end_state(reference()), end_state(tmp_path / "other")
    assert not torch.equal(first[0]["network.fc.weight"], second[0]["network.fc.weight"])


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


def test_all_checkpoints_damaged_starts_anew(data, reference, tmp_path):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(4))
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"")
    said = " ".join(finish(data, run, tmp_path).split())
    assert "there is no good checkpoint" in said
    assert_equal_ends(reference(), run)


# going on


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


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


def test_a_run_that_was_moved_goes_on(data, reference, tmp_path):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(6))
    moved = tmp_path / "deep" / "moved"
    moved.parent.mkdir()
    run.rename(moved)
    finish(data, moved, tmp_path)
    assert_equal_ends(reference(), moved)
    assert not run.exists()


def test_a_checkpoint_of_another_network_is_refused(data, reference, tmp_path):
    run = tmp_path / "run"
    kill(data, run, tmp_path, lambda: in_the_step(3))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("model: resnet8", "model: resnet14"))
    with pytest.raises(ValueError, match="of another network") as caught:
        ab.train(resume=run)
    assert "\n" not in str(caught.value)


# signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_how_to_go_on_and_exits(data, reference, tmp_path, number):
    """The command itself, in a process of its own."""
    run = tmp_path / "a run"  # with a space, which the message must quote
    words = [f"--{k}={v}" for k, v in options(data, run, workers=1, epochs=60).items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "accuracy_booster", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: (run / "checkpoints/manifest.json").exists() or process.poll() is not None)
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + number
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    where = re.fullmatch(
        rf"accuracy-booster: stopped by signal {int(number)} after step (\d+) of epoch (\d+), "
        rf"which is saved; go on with: accuracy-booster train --resume '{re.escape(str(run))}'",
        last,
    )
    assert where, err
    saved, problems = checkpoint.load(run)
    assert not problems
    assert (saved.values["step"], saved.values["epoch"] + 1) == tuple(map(int, where.groups()))
    assert not is_locked(run)


@pytest.mark.parametrize("step", [1, 4, 6])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_end(data, reference, tmp_path, step, number):
    """After the first step, the last of an epoch, and in between; no other checkpoint is near."""
    run = tmp_path / "run"
    code, said, _ = signalled(
        *(data, run, tmp_path, announce(step), [number]), checkpoint_minutes=100
    )
    assert code == 128 + number, said
    assert "go on with: accuracy-booster train --resume" in said
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_a_signal_in_the_evaluation(data, reference, tmp_path):
    run = tmp_path / "run"

    def plant(ready):
        real, calls = classification.measure, [0]

        def measure(*given):
            *given, on_batch = given

            def then(batch):
                calls[0] += 1
                if calls[0] == 2:
                    ready.touch()
                    time.sleep(0.4)
                on_batch(batch)

            return real(*given, then)

        classification.measure = measure

    code, said, _ = signalled(data, run, tmp_path, plant, [signal.SIGTERM])
    assert code == 143, said
    assert not (run / "metrics.csv").exists()
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_a_second_signal_ends_it_at_once(data, reference, tmp_path):
    run = tmp_path / "run"
    code, said, seconds = signalled(
        data, run, tmp_path, endless(9), [signal.SIGINT, signal.SIGTERM]
    )
    assert code in (130, 143), said
    assert seconds < 3
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_a_step_that_never_ends_exits_on_the_last_checkpoint(data, reference, tmp_path):
    run = tmp_path / "run"

    def plant(ready):
        signals.PATIENCE = 1.0
        endless(9)(ready)

    code, said, seconds = signalled(data, run, tmp_path, plant, [signal.SIGTERM])
    assert code == 143
    assert 0.9 < seconds < 5
    assert "no step ended within 1 s; stopped on the last checkpoint; go on with:" in said
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_the_patience_is_less_than_ten_seconds():
    assert signals.PATIENCE < 10


def test_signals_are_as_before_after_a_run(reference):
    def handler(*_):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with signals.StopRequest("") as stop:
            assert signal.getsignal(signal.SIGTERM) is not handler
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: stop.signal == signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, before)


# what is not finite


def poison(monkeypatch, number, kind):
    real, calls = trainer.Trainer._loss, [0]

    def loss(self, *given):
        calls[0] += 1
        value, logits = real(self, *given)
        if calls[0] == number and kind == "loss":
            value = value * math.nan
        elif calls[0] == number:  # of a finite loss: the slope of the root of 0
            value = value + 0 * (0 * next(self.plain.parameters()).sum()).sqrt()
        return value, logits

    monkeypatch.setattr(trainer.Trainer, "_loss", loss)


@pytest.mark.parametrize("kind", ["loss", "norm of the gradient"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_what_is_not_finite_stops_before_the_step(data, tmp_path, monkeypatch, kind, clip):
    run = tmp_path / "run"
    poison(monkeypatch, 11, kind)  # the first half of step 6: step 2 of epoch 2
    given = options(data, run, **({"clip_grad": clip} if clip else {}))
    with pytest.raises(TrainingStopped, match=f"the {kind} is not finite") as caught:
        ab.train(**given)
    says = str(caught.value)
    assert "\n" not in says
    assert "at step 2 of 4 in epoch 2, lr=0.005, batch of images" in says
    order = engine.open_data(resolve(**given)).loaders["train"].order(1)[6:12].tolist()
    assert f"images {', '.join(map(str, order))}, ..." in says
    saved, problems = checkpoint.load(run)
    assert not problems
    assert (saved.values["epoch"], saved.values["step"]) == (1, 1)
    assert all(bool(t.isfinite().all()) for t in saved.tensors.values())
    assert not is_locked(run)


def test_a_loss_that_was_not_finite_is_exit_code_1(data, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, 3, "loss")
    words = [f"--{k}={v}" for k, v in options(data, tmp_path / "run").items()]
    assert main(["train", *words]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("accuracy-booster: error: the loss is not finite at step 2 of 4")


# unreadable images


@pytest.fixture
def broken(data, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(data, root)
    for name in ("train/class1/3.png", "train/class1/4.png", "test/class0/2.png"):
        file = root / name
        file.write_bytes(file.read_bytes()[:400])
    return root


def test_unreadable_images_are_counted_named_and_repeat(broken, tmp_path, capfd):
    results = [ab.train(**options(broken, tmp_path / name)) for name in ("a", "b")]
    assert_equal_ends(tmp_path / "a", tmp_path / "b")
    named = json.loads((tmp_path / "a/run.json").read_text())["unreadable"]
    assert len(named) == 3
    for name in ("train/class1/3.png", "train/class1/4.png", "test/class0/2.png"):
        assert sum(str(broken / name) in reason for reason in named) == 1
    assert results[0].test.images == 14
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("skipped, cannot read the image") == 6
    with pytest.warns(UserWarning, match=r"left out, .*class0/2\.png"):
        measured = ab.evaluate(tmp_path / "a")
    assert measured.images == 14
    assert measured.top1 == results[0].test.top1


def test_too_many_unreadable_images_stop_the_training(broken, tmp_path):
    with pytest.raises(
        TrainingStopped, match=r"2 images .*more than bad_images=1; the last: .*png"
    ):
        ab.train(**options(broken, tmp_path / "run", bad_images=1))
    with pytest.raises(TrainingStopped, match=r"1 images .*more than bad_images=0"):
        ab.evaluate(
            nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), str(broken), image_size=16, bad_images=0
        )
    ab.train(**options(broken, tmp_path / "enough", bad_images=3, epochs=1))


def test_a_killed_run_with_unreadable_images(broken, tmp_path):
    finish(broken, tmp_path / "whole", tmp_path)
    kill(broken, tmp_path / "run", tmp_path, lambda: in_the_step(6))
    finish(broken, tmp_path / "run", tmp_path)
    assert_equal_ends(tmp_path / "whole", tmp_path / "run")


def small_broken(tmp_path):
    root = make_data(tmp_path / "small", size=(16, 16))
    (root / "train/class1/3.png").write_bytes(b"")
    (root / "test/class0/2.png").write_bytes(b"")
    return root


def test_unreadable_small_images_are_counted(tmp_path):
    root = small_broken(tmp_path)
    result = ab.train(**options(root, tmp_path / "run", epochs=1))
    assert result.test.images == 14
    assert len(json.loads((tmp_path / "run/run.json").read_text())["unreadable"]) == 2
    with pytest.raises(TrainingStopped, match="more than bad_images=1"):
        ab.train(**options(root, tmp_path / "few", bad_images=1))


def test_unreadable_small_images_are_counted_once_by_a_run_that_goes_on(tmp_path):
    root = small_broken(tmp_path)
    run = tmp_path / "run"
    kill(root, run, tmp_path, lambda: in_the_step(3), bad_images=2)
    finish(root, run, tmp_path)
    assert len(json.loads((run / "run.json").read_text())["unreadable"]) == 2


# the lock


def test_a_second_process_is_refused_and_the_lock_dies_with_the_first(data, reference, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    ready = tmp_path / "ready"

    def first():
        endless(5)(ready)
        run_or_resume(data, run)

    pid = in_child(first, tmp_path / "first.log")
    until(ready.exists)
    assert is_locked(run)
    before = hashes(run)
    assert wait(in_child(lambda: main(["train", "--resume", str(run)]), log)) == 2
    assert (
        log.read_text()
        .strip()
        .endswith(f"error: {run} is in use: another process is training there")
    )
    assert "Traceback" not in log.read_text()
    words = [f"--{k}={v}" for k, v in options(data, run, overwrite=True).items()]
    assert wait(in_child(lambda: main(["train", *words]), log)) == 2  # overwriting neither
    assert hashes(run) == before
    assert [r.state for r in list_runs(tmp_path)] == ["training"]
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert not is_locked(run)
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


def test_a_lock_within_one_process(tmp_path):
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(ValueError, match="is in use"), locked(tmp_path):
            pass
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def test_a_refusal_within_the_process_does_not_open_the_lock_to_others(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with locked(run):
        with pytest.raises(ValueError), locked(run):
            pass

        def other():
            from accuracy_booster.training import lock

            lock._held.clear()  # a process of its own holds nothing
            return 7 if lock.is_locked(run) else 0

        assert wait(in_child(other, tmp_path / "log")) == 7


# a full disk


@pytest.mark.parametrize("number", [9, 14])
def test_a_full_disk_stops_and_the_run_goes_on(data, reference, tmp_path, number):
    run, log = tmp_path / "run", tmp_path / "log"

    def work():
        full_disk(number)
        return main(["train", *(f"--{k}={v}" for k, v in options(data, run).items())])

    assert wait(in_child(work, log)) == 1
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith("accuracy-booster: error: cannot write")
    assert "No space left on device" in last
    assert "--resume" in last
    assert checkpoint.load(run)[0] is not None
    assert not list(run.rglob("*.partial"))
    finish(data, run, tmp_path)
    assert_equal_ends(reference(), run)


# compiling


def test_a_compiled_run_keeps_to_it_and_goes_on_to_the_same_end(data, tmp_path):
    given = {"compile": "on", "block": "none", "accumulate": 1, "mixup": 0.0, "cutmix": 0.0}

    def aot(one):
        print("compiled", flush=True)
        return torch.compile(one.network, backend="aot_eager", dynamic=False)

    def work(run, plant=lambda: None):
        def inside():
            compiling.compiled = aot
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


def test_the_decision_not_to_compile_is_kept(data, reference):
    info = json.loads((reference() / "run.json").read_text())
    assert info["decided"] == {"compile": False, "fuse": False}


# the list of runs


def test_runs(data, reference, tmp_path, capsys):
    done = reference()
    root = tmp_path / "runs"
    shutil.copytree(done, root / "deep" / "done")
    kill(data, root / "stopped", tmp_path, lambda: in_the_step(6))
    kill(data, root / "early", tmp_path, lambda: in_the_step(1))
    for name, damage in (("bad", "config.yaml"), ("worse", "run.json")):
        shutil.copytree(done, root / name)
        (root / name / damage).write_text("{")
    listed = {r.path.name: r for r in list_runs(root)}
    assert set(listed) == {"done", "stopped", "early", "bad", "worse"}
    test = json.loads((done / "run.json").read_text())["test"]
    assert (listed["done"].state, listed["done"].top1) == ("finished", test["top1"])
    row = listed["stopped"]
    assert (row.state, row.epoch, row.epochs, row.seed) == ("stopped", 1, 2, 3)
    assert (row.model, row.block) == ("resnet8", "ab")
    assert row.top1 is not None
    assert listed["early"].state == "stopped before its first checkpoint"
    assert listed["early"].top1 is None
    for name in ("bad", "worse"):
        assert listed[name].state.startswith("damaged: ")
    assert main(["runs", str(root)]) == 0
    out = capsys.readouterr().out
    assert "--resume RUN goes on" in out
    for word in ("finished", "stopped", "damaged"):
        assert word in out
    assert main(["runs", str(root), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [Path(row["path"]).name for row in rows] == [r.path.name for r in list_runs(root)]
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err


# the pieces of a step


class Plain(nn.Sequential):
    """Without batch norm: a sum over images is what it is."""

    def __init__(self, classes=10, chans=1):
        super().__init__(
            nn.Conv2d(chans, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, classes)
        )


def new_trainer(tmp_path, **more):
    """A trainer of digits on the network above, whose steps are called one by one."""
    given = {"block": "none", "batch_size": 32, "device": "cpu", "output": str(tmp_path / "run")}
    config = resolve("resnet8", **{**given, **more})
    data = engine.open_data(config)
    made = trainer.Trainer(Classification(engine.fill_in(config, data), data))
    made.stop = signals.StopRequest("")
    return made


def test_accumulating_is_the_whole_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "build_network", lambda *_, **__: Plain())
    ends = []
    for parts in (1, 2, 8):
        made = new_trainer(tmp_path, accumulate=parts)
        for batch in list(made.loaders["train"].batches(0))[:10]:
            made.train_step(batch)
        ends.append((made.plain.state_dict(), made.sums))
    for state, sums in ends[1:]:
        for name, tensor in state.items():
            assert torch.allclose(tensor, ends[0][0][name], rtol=0, atol=1e-6), name
        assert torch.allclose(sums, ends[0][1], rtol=1e-6)
    assert ends[0][1][2] == 320


@pytest.mark.parametrize("clip", [0.01, 0.5, 1e6])
def test_clipping_limits_the_step(tmp_path, monkeypatch, clip):
    """Without momentum and decay a step's length is the rate times the gradient's norm."""
    monkeypatch.setattr(engine, "build_network", lambda *_, **__: Plain())
    moved = {}
    for limit in (None, clip):
        made = new_trainer(tmp_path, clip_grad=limit, momentum=0.0, weight_decay=0.0, lr=0.1)
        before = nn.utils.parameters_to_vector(made.plain.parameters()).detach().clone()
        made.train_step(next(iter(made.loaders["train"].batches(0))))
        moved[limit] = nn.utils.parameters_to_vector(made.plain.parameters()).detach() - before
    free = float(moved[None].norm()) / 0.1
    assert float(moved[clip].norm()) / 0.1 == pytest.approx(min(clip, free), rel=1e-4)
    cosine = F.cosine_similarity(moved[None], moved[clip], dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_is_torchs(tmp_path, smoothing):
    made = new_trainer(tmp_path, label_smoothing=smoothing)
    batch = next(iter(made.loaders["train"].batches(0)))
    made.network.eval()
    loss, _ = made._loss(batch)
    with torch.no_grad():
        logits = made.network(normalise(batch.images, made.data.mean, made.data.std))
    smooth = torch.full((32, 10), smoothing / 10)
    smooth[torch.arange(32), batch.labels] += 1 - smoothing
    by_hand = -(smooth * logits.log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    torchs = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    assert loss.item() == torchs.item()


def test_weight_decay_and_rates_of_gates_and_norms():
    config = resolve(
        *("resnet8",),
        **{"lr": 0.2, "gate_lr": 0.3, "weight_decay": 1e-4},
        **{"norm_weight_decay": 0.0, "gate_weight_decay": 5e-4},
    )
    network = ab.create_model("resnet8", block="ab", num_classes=10)
    optimizer = engine.make_optimizer(network, config)
    found = {
        id(p): (g["lr0"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    kinds = set()
    for name, parameter in network.named_parameters():
        if ".recalibrate." in name:
            expected = (0.3, 5e-4)
        elif parameter.ndim < 2:
            expected = (0.2, 0.0)
        else:
            expected = (0.2, 1e-4)
        kinds.add(expected)
        assert found.pop(id(parameter)) == expected, name
    assert not found
    assert len(kinds) == 3
    engine.set_rates(optimizer, 0.5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1, 0.15}
    alike = engine.make_optimizer(network, resolve("resnet8"))
    assert len(alike.param_groups) == 1


def test_linear_warm_up_goes_up_step_by_step():
    config = resolve(
        *("resnet56",),
        **{"data": "cifar10", "epochs": 10, "lr": 0.4, "warmup": "linear", "warmup_epochs": 4},
        **{"warmup_lr": 0.1, "schedule": "cosine"},
    )
    for epoch in range(4):
        for done in (0.0, 0.25, 0.9):
            expected = 0.1 + 0.3 * (epoch + done) / 4
            assert 0.4 * engine.rate_factor(config, epoch, done) == pytest.approx(expected)
    assert engine.rate_factor(config, 4, 0.0) == 1
    assert engine.rate_factor(config, 3, 1.0) == pytest.approx(1)
    assert engine.rate_factor(config, 7, 0.9) == pytest.approx(0.5)


def test_the_moving_average_is_what_is_measured_and_kept(data, reference):
    run = reference()
    saved, _ = checkpoint.load(run)
    kept = load_file(run / "model.safetensors")
    assert kept.keys() == {k[8:] for k in saved.tensors if k.startswith("average.")}
    for name, tensor in kept.items():
        assert torch.equal(tensor, saved.tensors[f"average.{name}"])
    assert not torch.equal(kept["fc.weight"], saved.tensors["network.fc.weight"])
    test = json.loads((run / "run.json").read_text())["test"]
    assert ab.evaluate(run).to_dict() == pytest.approx(test)
    assert saved.values["history"][-1]["test_loss"] == test["loss"]


def test_the_moving_average_is_by_hand(tmp_path):
    made = new_trainer(tmp_path, ema=0.7)
    average = {k: v.clone() for k, v in made.plain.state_dict().items()}
    for batch in list(made.loaders["train"].batches(0))[:5]:
        made.train_step(batch)
        for name, value in made.plain.state_dict().items():
            if value.is_floating_point():
                average[name] = 0.7 * average[name] + 0.3 * value
            else:
                average[name] = value
    for name, value in made.average.module.state_dict().items():
        assert torch.allclose(value, average[name], atol=1e-5), name
