"""A loop of one's own with accelerate: prepare, save_state, load_state, save_model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import accelerate
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

import accuracy_booster as ab
from trainers.step import Step, difference, exported, gates, images, in_a_new_process

PACKAGE = "accelerate"
EXAMPLES = images()
TESTS = "tests/public/test_public_loops.py::"
ONNX = "tests/public/test_public_loops.py::test_exported_to_onnx"


def network(boost: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = resnet18(num_classes=4)
    return ab.boost(model, "ab", init="identity", example=EXAMPLES[:1]) if boost else model


def prepared() -> tuple[accelerate.Accelerator, nn.Module, torch.optim.Optimizer]:
    accelerator, model = accelerate.Accelerator(cpu=True), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return accelerator, *accelerator.prepare(model, optimizer)


def load(folder: Path) -> nn.Module:
    model = network()
    accelerate.load_checkpoint_in_model(model, folder / "model", strict=True)
    return model


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    return copy.deepcopy(model).eval()(EXAMPLES)


def steps(folder: Path) -> Iterator[Step]:
    off = difference(outputs(network()), outputs(network(boost=False)))
    state = TESTS + "test_the_state_of_accelerate_goes_on_alike"
    yield Step(PACKAGE, "boost", gates(network()), 8, off, state)
    accelerator, model, optimizer = prepared()
    for _ in range(2):
        accelerator.backward(F.cross_entropy(model(images(16)), torch.arange(16) % 4))
        optimizer.step()
        optimizer.zero_grad()
    yield Step(PACKAGE, "train", gates(accelerator.unwrap_model(model)), 8, None, state)
    accelerator.save_state(folder / "state")
    accelerator.save_model(model, folder / "model")
    trained = outputs(model)
    kept = gates(load(folder))
    saved = TESTS + "test_a_model_saved_by_accelerate"
    yield Step(PACKAGE, "save", kept, 8, difference(outputs(load(folder)), trained), saved)
    other, resumed, _ = prepared()
    other.load_state(folder / "state")
    off = difference(outputs(resumed), trained)
    yield Step(PACKAGE, "resume", gates(other.unwrap_model(resumed)), 8, off, state)
    found, loaded = in_a_new_process("accelerate", folder)
    off = difference(loaded, trained)
    yield Step(PACKAGE, "load in a new process", found, 8, off, saved)
    found, loaded = exported(accelerator.unwrap_model(model).eval(), EXAMPLES, folder)
    off = difference(loaded, trained)
    yield Step(
        PACKAGE,
        "export",
        found,
        8,
        off,
        "tests/public/test_public_loops.py::test_exported_to_onnx",
        "ONNX",
    )
