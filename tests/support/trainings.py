"""Small trainings with everything that is random, run in children; whether two end alike."""

# N batch, C channels, H W space

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.training import checkpoint
from support.interruptions import dropping
from support.processes import in_child, until, wait

TIMES = ("seconds", "images_per_second")  # what may differ


def make_data(root, train=8, test=5, size=(66, 70)) -> Path:
    """PNG files larger than what is kept in memory: they are decoded at each use."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label in range(3):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                noise = generator.integers(0, 120, (*size, 3)) + 60 * label
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def options(data, output, **more):
    """2 epochs of 4 steps and 3 batches of test images, with everything that is random."""
    return {
        **{"model": "resnet8", "block": "ab", "data": str(data), "output": str(output)},
        **{"preset": "cifar_resnet", "epochs": 2, "batch_size": 6, "image_size": 16, "lr": 0.05},
        **{"ema": 0.9, "mixup": 0.2, "cutmix": 1.0, "checkpoint_minutes": 0, "seed": 3},
        **{"eval_batch_size": 7, "compile": "off", "accumulate": 2, "device": "cpu"},
        **more,
    }


SETUPS = {
    "files": {},
    "worker": {"workers": 1, "epochs": 1},
    "drop": {"model": "timm/test_resnet", "image_size": 32, "checkpoint_minutes": 10},
}


def run_or_resume(data, run, setup="files", **more):
    warnings.simplefilter("ignore")
    if setup == "drop":
        dropping()
    if (run / "config.yaml").exists():
        ab.train(resume=run)
    else:
        ab.train(**options(data, run, **SETUPS[setup], **more))


def end_state(run):
    saved, problems = checkpoint.load(run)
    assert not problems
    tensors = {**saved.tensors, **load_file(run / "model.safetensors")}
    history = [{k: v for k, v in r.items() if k not in TIMES} for r in saved.values["history"]]
    info = json.loads((run / "run.json").read_text())
    rest = {k: v for k, v in saved.values.items() if k not in (*TIMES, "history")}
    return tensors, history, info["test"], info["unreadable"], rest


def assert_equal_ends(first, second):
    a, b = end_state(first), end_state(second)
    assert a[0].keys() == b[0].keys()
    for name in a[0]:
        assert torch.equal(a[0][name], b[0][name]), name
    assert a[1:] == b[1:]
    rows = [
        [
            {k: v for k, v in r.items() if k not in TIMES}
            for r in ab.training.run_directory.Run(p).history()
        ]
        for p in (first, second)
    ]
    assert rows[0] == rows[1]


def finish(data, run, tmp_path, setup="files"):
    log = tmp_path / "resume.log"
    assert wait(in_child(lambda: run_or_resume(data, run, setup), log)) == 0, log.read_text()
    return log.read_text()


def kill(data, run, tmp_path, plant, setup="files", **more):
    def doomed():
        plant()
        run_or_resume(data, run, setup, **more)

    log = tmp_path / "killed.log"
    assert wait(in_child(doomed, log)) == -signal.SIGKILL, log.read_text()


def signalled(data, run, tmp_path, plant, numbers, **more):
    """(exit code, what it said, seconds) of a run that is sent signals when it makes `ready`."""
    ready, log = tmp_path / "ready", tmp_path / "signalled.log"

    def work():
        plant(ready)
        warnings.simplefilter("ignore")
        words = [f"--{k}={v}" for k, v in options(data, run, **more).items()]
        return main(["train", *words])

    pid = in_child(work, log)
    until(ready.exists)
    start = time.monotonic()
    for number in numbers:
        os.kill(pid, number)
        time.sleep(0.2)
    code = wait(pid)
    return code, " ".join(log.read_text().split()), time.monotonic() - start
