"""Small trainings, in children with everything that is random or of seconds; how two compare."""

# N batch, C channels, H W space

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.training import checkpoint, network_building, resolve
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.opening_data import fill_in, open_data
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.trainer import Trainer
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
        [{k: v for k, v in r.items() if k not in TIMES} for r in Run(p).history()]
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


# runs of seconds in the test's own process

DIGITS = {
    **{"model": "resnet8", "block": "ab", "device": "cpu", "epochs": 1, "batch_size": 512},
    **{"compile": "off", "seed": 1},
}
SMALL = {"batch_size": 8, "device": "cpu", "image_size": 16}
SIZE_32 = {"epochs": 1, "batch_size": 8, "device": "cpu", "image_size": 32}


SPLITS_OF_TWO = {
    f"{split}/{name}": count for split, count in (("train", 8), ("test", 4)) for name in "ab"
}


def train_digits(output, **more):
    """A run on the built-in digits."""
    return ab.train(**{**DIGITS, **more}, output=str(output))


def digit_words(command, output, **more):
    """The command line of `train_digits`."""
    return [command, *(f"--{k}={v}" for k, v in {**DIGITS, "output": output, **more}.items())]


def small(folder, **options):
    """A run on the images of 16x16 in a folder."""
    return ab.train("resnet8", data=str(folder), **{"epochs": 1, **SMALL, **options})


def short(tmp_path, name="run", **options):
    """The options of a run on any data, but for the data."""
    given = {"epochs": 1, "batch_size": 8, "device": "cpu", "output": str(tmp_path / name)}
    return {**given, **options}


def contents(folder):
    """{name: bytes} of all files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(run):
    """The final weights of a run."""
    return load_file(run / "model.safetensors")


def equal_tensors(first, second) -> bool:
    """Whether two dicts of tensors are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def equal_weights(first, second) -> bool:
    """Whether two runs ended with equal weights."""
    return equal_tensors(weights(first), weights(second))


def flip(path, place=None):
    """Change one bit of a file, by default in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


def stored(run):
    """The values in a run's config.yaml."""
    return yaml.safe_load((run / "config.yaml").read_text())


# networks


def replace_network(monkeypatch, network):
    """Let runs train what `network()` gives, whatever they name."""
    monkeypatch.setattr(network_building, "create_model", lambda name, **given: network())


def randomise(model: nn.Module) -> nn.Module:
    """Make all weights others than those that any start gives, as if they were trained."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise + 0.5 if "var" in name else tensor + 0.1 * (noise - 0.5))
    return model


def logits_of(model: nn.Module, side: int = 32) -> torch.Tensor:
    """The logits of the same four images [4, 3, side, side] for every model."""
    x = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    model = model.to(memory_format=torch.contiguous_format)  # another one rounds differently
    with torch.no_grad():
        return model.eval()(x)


class Plain(nn.Sequential):
    """A network of grey 8x8 images without batch norm: a sum over images is what it is."""

    def __init__(self, classes=10, chans=1):
        super().__init__(
            nn.Conv2d(chans, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, classes)
        )


def new_trainer(tmp_path, **more):
    """A trainer of digits before its first step."""
    given = {"block": "none", "batch_size": 32, "device": "cpu", "output": str(tmp_path / "run")}
    config = resolve("resnet8", **{**given, **more})
    data = open_data(config)
    made = Trainer(Classification(fill_in(config, data), data))
    made.initialise()
    return made


def two_image_folders(place):
    """Folders `images` and `others` of 8x8 images: the same names and labels, other pixels."""
    generator = torch.Generator().manual_seed(0)
    for name in ("images", "others"):
        for split, count in (("train", 8), ("test", 4)):
            for label in range(2):
                folder = place / name / split / f"class{label}"
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8)
                    Image.fromarray(pixels.numpy()).save(folder / f"{i}.bmp")
    return place / "images"


def hashes(folder):
    """{a file in a folder: the SHA-256 of its content}."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def compare(where, **more):
    """A comparison of ResNet-8 on the digits, with one seed, in a directory."""
    options = {n: v for n, v in DIGITS.items() if n not in ("model", "block")}
    return ab.compare("resnet8", seeds=1, output=str(where), **{**options, **more})
