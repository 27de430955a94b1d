"""timm's train.py with a boosted name: what it calls to create, save, resume, load and export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.models import load_checkpoint, resume_checkpoint, save_for_hf
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn

from accuracy_booster.integrations.timm import register
from trainers.step import Step, difference, exported, gates, images, in_a_new_process

PACKAGE = "timm"
TRAINER = "timm's train.py"
NAME = "ab_test_resnet.ab"
EXAMPLES = images(8, 3, 64, 64)
TESTS = "tests/integrations/test_timm.py::"


def network(name: str = NAME) -> nn.Module:
    register()
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4)


def load(folder: Path) -> nn.Module:
    register()
    return timm.create_model(f"local-dir:{folder / 'hub'}", pretrained=True)


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    return model.eval()(EXAMPLES)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return create_optimizer_v2(model, "sgd", lr=0.05, layer_decay=0.7)


def steps(folder: Path) -> Iterator[Step]:
    model = network()
    off = difference(outputs(model), outputs(network("test_resnet")))
    yield Step(TRAINER, "boost", gates(model), 4, off, TESTS + "test_weights_of_the_base")
    optimizer, average = optimizer_of(model), ModelEmaV3(model, decay=0.5)
    for _ in range(2):
        F.cross_entropy(model.train()(images(16, 3, 64, 64)), torch.arange(16) % 4).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
    test = TESTS + "test_checkpoints_averages_and_resuming"
    yield Step(TRAINER, "train", gates(average.module), 4, None, test, "ModelEmaV3's copy")
    trained = outputs(model)
    CheckpointSaver(
        model, optimizer, model_ema=average, checkpoint_dir=str(folder)
    ).save_checkpoint(0)
    file, validated = str(folder / "last.pth.tar"), network()
    load_checkpoint(validated, file, use_ema=True)
    off = difference(outputs(validated), outputs(average.module))
    yield Step(TRAINER, "save", gates(validated), 4, off, test, "validate.py --use-ema")
    resumed = network()
    resume_checkpoint(resumed, file, optimizer_of(resumed), log_info=False)
    yield Step(TRAINER, "resume", gates(resumed), 4, difference(outputs(resumed), trained), test)
    save_for_hf(model, folder / "hub")
    found, loaded = in_a_new_process("timm", folder)
    test = TESTS + "test_what_timm_saves_comes_back"
    off = difference(loaded, trained)
    yield Step(TRAINER, "load in a new process", found, 4, off, test, "local-dir:")
    found, loaded = exported(model.eval(), EXAMPLES, folder)
    test = TESTS + "test_exporting"
    yield Step(TRAINER, "export", found, 4, difference(loaded, trained), test, "ONNX")
