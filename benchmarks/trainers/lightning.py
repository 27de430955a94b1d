"""lightning's Trainer: a module that boosts its network in `__init__`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import accuracy_booster as ab
from trainers.step import Step, difference, exported, gates, images, in_a_new_process

PACKAGE = "lightning"
EXAMPLES = images()
TESTS = "tests/public/test_public_lightning.py::"
ONNX = "tests/public/test_public_loops.py::test_exported_to_onnx"


class Module(lightning.LightningModule):
    def __init__(self, block: str | None = "ab"):
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.backbone = resnet18(num_classes=4)
        if block is not None:
            ab.boost(self.backbone, block, init="identity", example=EXAMPLES[:1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def trainer(folder: Path, epochs: int) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def data() -> DataLoader:
    return DataLoader(TensorDataset(images(32), torch.arange(32) % 4), batch_size=16)


def load(folder: Path) -> nn.Module:
    return Module.load_from_checkpoint(folder / "last.ckpt")


@torch.no_grad()
def outputs(module: nn.Module) -> torch.Tensor:
    return copy.deepcopy(module).eval()(EXAMPLES)


def steps(folder: Path) -> Iterator[Step]:
    module, base = Module(), Module(block=None)
    boosted = gates(module)
    off = difference(outputs(module), outputs(base))
    yield Step(PACKAGE, "boost", boosted, 8, off, TESTS + "test_boosted_in_init")
    used = trainer(folder, 1)
    used.fit(module, data())
    yield Step(PACKAGE, "train", gates(module), 8, None, TESTS + "test_boosted_in_init")
    used.save_checkpoint(folder / "last.ckpt")
    trained = outputs(module)
    saved = torch.load(folder / "last.ckpt")["state_dict"]
    kept = sum(name.endswith("recalibrate.0.bn.weight") for name in saved)
    yield Step(PACKAGE, "save", kept, 8, None, TESTS + "test_boosted_in_init")
    resumed = Module()
    trainer(folder, 1).fit(resumed, data(), ckpt_path=folder / "last.ckpt")
    off = difference(outputs(resumed), trained)
    yield Step(PACKAGE, "resume", gates(resumed), 8, off, TESTS + "test_boosted_in_init")
    found, loaded = in_a_new_process("lightning", folder)
    off = difference(loaded, trained)
    yield Step(PACKAGE, "load in a new process", found, 8, off, TESTS + "test_boosted_in_init")
    found, loaded = exported(module.eval(), EXAMPLES, folder)
    off = difference(loaded, trained)
    yield Step(PACKAGE, "export", found, 8, off, ONNX, "ONNX")
