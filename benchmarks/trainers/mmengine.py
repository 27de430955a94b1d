"""mmengine's Runner with a backbone in the style of mmdetection, built from a configuration."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from trainers.step import Step, difference, exported, gates, images, in_a_new_process

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from mmengine.runner import load_checkpoint
from support.mmdet_style import GATES, build, runner

import accuracy_booster as ab

PACKAGE = "mmengine"
EXAMPLES = images(2, 3, 8, 8)
TESTS = "tests/public/test_public_mmengine.py::"
ONNX = "tests/public/test_public_loops.py::test_exported_to_onnx"


def boosted() -> nn.Module:
    model = build()
    model.init_weights()
    return ab.boost(model, "ab", init="identity", example=EXAMPLES[:1])


def load(folder: Path) -> nn.Module:
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    model = boosted()
    load_checkpoint(model, str(folder / "epoch_1.pth"), strict=True)
    return model


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    return copy.deepcopy(model).eval()(EXAMPLES)


def steps(folder: Path) -> Iterator[Step]:
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # mmengine 0.10 with torch 2.6 and newer
    base = build()
    base.init_weights()
    model = boosted()
    note = "after init_weights, which the Runner calls otherwise"
    init = TESTS + "test_init_weights_comes_before_boosting"
    off = difference(outputs(model), outputs(base))
    yield Step(PACKAGE, "boost", gates(model), GATES, off, init, note)
    used = runner(model, folder)
    used.train()
    test = TESTS + "test_the_runner_trains_gates_and_saves_them"
    yield Step(PACKAGE, "train", gates(used.model), GATES, None, test)
    trained = outputs(used.model)
    off = difference(outputs(load(folder)), trained)
    yield Step(PACKAGE, "save", gates(load(folder)), GATES, off, test)
    resumed = runner(
        boosted(), folder / "resumed", resume=True, load_from=str(folder / "epoch_1.pth")
    )
    resumed.load_or_resume()
    off = difference(outputs(resumed.model), trained)
    resume = TESTS + "test_a_training_is_resumed_with_gates"
    yield Step(PACKAGE, "resume", gates(resumed.model), GATES, off, resume)
    found, loaded = in_a_new_process("mmengine", folder)
    yield Step(PACKAGE, "load in a new process", found, GATES, difference(loaded, trained), test)
    found, loaded = exported(used.model.eval(), EXAMPLES, folder)
    off = difference(loaded, trained)
    yield Step(
        PACKAGE,
        "export",
        found,
        GATES,
        off,
        "tests/public/test_public_loops.py::test_exported_to_onnx",
        "ONNX",
    )
