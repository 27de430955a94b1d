"""One step of a trainer with a boosted network, and what the trainers' files share."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from accuracy_booster.surgery import attached

HERE = Path(__file__).parent

STEPS = ("boost", "train", "resume", "save", "load in a new process", "export")


class Step(NamedTuple):
    """What a step left of the gates and of the outputs.

    Attributes:
        trainer: the trainer, as people call it: "lightning", "timm's train.py".
        step: one of STEPS.
        gates: how many gates the network has after the step.
        expected: how many were boosted.
        difference: the largest difference of an output that the step made, relative to the largest
            output. boost: to the base network, with init="identity"; resume, save and load: to the
            trained network; export: to torch. None where there is nothing to compare (train).
        test: the id of the test that backs it.
        note: what a reader should know, and why the step failed if it did.
    """

    trainer: str
    step: str
    gates: int
    expected: int
    difference: float | None
    test: str
    note: str = ""


def gates(model: nn.Module) -> int:
    """How many gates a network has."""
    return len(attached(model))


def difference(output: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected output."""
    expected = expected.detach().double()
    return float((output.detach().double() - expected).abs().max() / expected.abs().max())


def images(number: int = 8, *size: int) -> torch.Tensor:
    """The images on which outputs are compared."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, *(size or (3, 32, 32)), generator=generator)


def in_a_new_process(trainer: str, folder: Path) -> tuple[int, torch.Tensor]:
    """The number of gates and the outputs of what `trainers.TRAINER.load(folder)` gives."""
    code = f"from trainers.step import answer; answer({trainer!r}, {str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)
    gates, outputs = torch.load(folder / "answer.pt")
    return gates, outputs


def answer(trainer: str, folder: str) -> None:
    """What the new process does: load, run, and leave the answer in the folder."""
    warnings.simplefilter("ignore")
    module = importlib.import_module(f"trainers.{trainer}")
    model = module.load(Path(folder)).eval()
    with torch.no_grad():
        outputs = model(module.EXAMPLES)
    torch.save((gates(model), outputs), Path(folder) / "answer.pt")


def exported(model: nn.Module, examples: torch.Tensor, folder: Path) -> tuple[int, torch.Tensor]:
    """How many sigmoids the ONNX file of a network has, and its outputs by onnxruntime.

    Each gate of a block such as "ab" ends in one; the network must have no other.
    """
    import onnx
    import onnxruntime

    file = folder / "model.onnx"
    torch.onnx.export(model, (examples,), file, dynamo=True, verbose=False)
    sigmoids = sum(node.op_type == "Sigmoid" for node in onnx.load(file).graph.node)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    return sigmoids, torch.from_numpy(session.run(None, {name: examples.numpy()})[0])
