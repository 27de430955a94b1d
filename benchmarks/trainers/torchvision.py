"""torchvision's reference script with a boosted name: what it calls, from get_model to resuming."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from accuracy_booster.integrations.torchvision import register
from trainers.step import Step, difference, exported, gates, images, in_a_new_process

PACKAGE = "torchvision"
TRAINER = "torchvision's train.py"
EXAMPLES = images(8, 3, 64, 64)
TESTS = "tests/integrations/test_torchvision.py::"


def network(name: str = "ab_resnet18") -> nn.Module:
    register()
    torch.manual_seed(0)
    return models.get_model(name, weights=None, num_classes=4)


def load(folder: Path) -> nn.Module:
    model = network()
    model.load_state_dict(torch.load(folder / "checkpoint.pth")["model"])
    return model


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    return model.eval()(EXAMPLES)


def steps(folder: Path) -> Iterator[Step]:
    model = network()
    off = difference(outputs(model), outputs(network("resnet18")))
    test = TESTS + "test_a_network_with_weights_computes_what_its_base_does"
    yield Step(TRAINER, "boost", gates(model), 8, off, test)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    average = AveragedModel(model, use_buffers=True)
    for _ in range(2):
        F.cross_entropy(model.train()(images(16, 3, 64, 64)), torch.arange(16) % 4).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
    test = TESTS + "test_what_the_reference_script_does"
    yield Step(TRAINER, "train", gates(average.module), 8, None, test, "the EMA's copy")
    trained = outputs(model)
    checkpoint = {"model": model.state_dict(), "model_ema": average.state_dict()}
    torch.save(checkpoint, folder / "checkpoint.pth")
    of_file = AveragedModel(network(), use_buffers=True)
    of_file.load_state_dict(torch.load(folder / "checkpoint.pth")["model_ema"])
    off = difference(outputs(of_file), outputs(average))
    yield Step(TRAINER, "save", gates(of_file.module), 8, off, test, "the EMA")
    resumed = load(folder)
    yield Step(TRAINER, "resume", gates(resumed), 8, difference(outputs(resumed), trained), test)
    found, loaded = in_a_new_process("torchvision", folder)
    yield Step(TRAINER, "load in a new process", found, 8, difference(loaded, trained), test)
    found, loaded = exported(model.eval(), EXAMPLES, folder)
    test = "tests/public/test_public_loops.py::test_exported_to_onnx"
    yield Step(TRAINER, "export", found, 8, difference(loaded, trained), test, "ONNX")
