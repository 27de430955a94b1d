"""The steps of a boosted network in the Trainer of transformers."""

# N batch, C channels, H W space

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import accuracy_booster as ab
from trainers.step import Step, difference, gates

PACKAGE = "transformers"
TRAINER = "transformers' Trainer"
TESTS = "tests/integrations/test_transformers.py::"
SIDE = 32

NEW_PROCESS = """
import sys
import torch
import accuracy_booster as ab

folder, images, result = sys.argv[1:]
model = ab.integrations.transformers.from_pretrained(folder)
with torch.no_grad():
    logits = model(torch.load(images)).logits
torch.save((len(ab.gate_record(model)["sites"]), logits), result)
"""


def network() -> Any:
    """ResNet-18's blocks, with an eighth of its channels."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=4,
    )
    return transformers.ResNetForImageClassification(config)


def trainer(folder: Path, model: Any) -> Any:
    import transformers

    images = torch.randn(128, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=8,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        save_steps=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    samples = [{"pixel_values": image, "labels": i % 4} for i, image in enumerate(images)]
    return transformers.Trainer(model=model, args=arguments, train_dataset=samples)


def boosted() -> Any:
    return ab.boost(network(), "ab", init="identity", example=torch.zeros(1, 3, SIDE, SIDE))


@torch.no_grad()
def logits(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model.eval()(images).logits


def steps(folder: Path) -> Iterator[Step]:
    import transformers

    transformers.logging.disable_progress_bar()
    images = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = 8

    def step(name: str, count: int, off: float | None, test: str) -> Step:
        return Step(TRAINER, name, count, expected, off, TESTS + test)

    model = boosted()
    off = difference(logits(model, images), logits(network(), images))
    yield step("boost", gates(model), off, "test_a_network_is_boosted_saved_and_loaded")

    model.train()
    run = trainer(folder / "run", model)
    run.train()
    trained = logits(model, images)
    yield step("train", gates(model), None, "test_a_training_changes_and_saves_the_gates")

    again = trainer(folder / "again", boosted())
    again.train(resume_from_checkpoint=str(folder / "run" / "checkpoint-4"))
    off = difference(logits(again.model, images), trained)
    test = "test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one"
    yield step("resume", gates(again.model), off, test)

    run.save_model(str(folder / "saved"))
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder / "saved")
    test = "test_transformers_itself_builds_the_gates_in_a_process_that_has_some"
    yield step("save", gates(loaded), difference(logits(loaded, images), trained), test)

    torch.save(images, folder / "images.pt")
    words = [folder / "saved", folder / "images.pt", folder / "result.pt"]
    root = str(Path(ab.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, *map(str, words)],
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    count, found = torch.load(folder / "result.pt")
    yield step("load in a new process", count, difference(found, trained), "test_a_new_process")

    import onnxruntime

    program = torch.onnx.export(model.eval(), (images,), dynamo=True, verbose=False)
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    off = difference(torch.from_numpy(found), trained)
    yield step("export", gates(model), off, "test_onnx")
