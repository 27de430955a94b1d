"""Segmentation networks of segmentation_models_pytorch and monai in a loop of one's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import monai
import segmentation_models_pytorch as smp
import torch
from monai.losses import DiceLoss
from torch import nn

import accuracy_booster as ab
from trainers.step import Step, difference, exported, gates, images, in_a_new_process

PACKAGE = "segmentation_models_pytorch"
ALSO = ("monai", "timm")
EXAMPLES = images(2, 3, 64, 64)
TESTS = "tests/public/test_public_segmentation.py::"
ONNX = "tests/public/test_public_loops.py::test_exported_to_onnx"


def unet() -> nn.Module:
    torch.manual_seed(0)
    return smp.Unet("resnet18", encoder_weights=None, classes=2)


def monai_unet() -> nn.Module:
    torch.manual_seed(0)
    return monai.networks.nets.UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=2,
        channels=(8, 16, 32),
        strides=(2, 2),
        num_res_units=2,
    )


def boosted(build: Callable[[], nn.Module]) -> nn.Module:
    return ab.boost(build(), "ab", init="identity", example=EXAMPLES[:1])


def load(folder: Path) -> nn.Module:
    build = monai_unet if (folder / "monai").exists() else unet
    return ab.load(build(), folder / "gates")


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    return copy.deepcopy(model).eval()(EXAMPLES)


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    target = (EXAMPLES.mean(1, keepdim=True) > 0).long()
    for _ in range(2):
        optimizer.zero_grad()
        DiceLoss(to_onehot_y=True, softmax=True)(model(EXAMPLES), target).backward()
        optimizer.step()


def steps(folder: Path) -> Iterator[Step]:
    whole = TESTS + "test_the_encoder_alone_or_the_network_around_it"
    monais = TESTS + "test_networks_of_monai"
    yield from of_one("smp Unet, resnet18", unet, 8, whole, folder)
    (folder / "monai").touch()
    yield from of_one("monai UNet", monai_unet, 4, monais, folder)


def of_one(
    name: str, build: Callable[[], nn.Module], expected: int, test: str, folder: Path
) -> Iterator[Step]:
    model = boosted(build)
    yield Step(
        name, "boost", gates(model), expected, difference(outputs(model), outputs(build())), test
    )
    loop = TESTS + "test_a_loop_of_monai"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer)
    yield Step(name, "train", gates(model), expected, None, loop)
    trained = outputs(model)
    checkpoint = {
        "network": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "gates": ab.gate_record(model),
    }
    torch.save(checkpoint, folder / "last.pt")
    saved = torch.load(folder / "last.pt")
    resumed = ab.rebuild_gates(build(), saved["gates"])
    resumed.load_state_dict(saved["network"])
    torch.optim.SGD(resumed.parameters(), lr=0.1).load_state_dict(saved["optimizer"])
    off = difference(outputs(resumed), trained)
    yield Step(
        name, "resume", gates(resumed), expected, off, loop, "ab.gate_record in the checkpoint"
    )
    ab.save(model, folder / "gates", full=True)
    again = ab.load(build(), folder / "gates")
    ours = TESTS + "test_saved_by_ours"
    off = difference(outputs(again), trained)
    yield Step(name, "save", gates(again), expected, off, ours, "ab.save(full=True)")
    found, loaded = in_a_new_process("segmentation", folder)
    yield Step(name, "load in a new process", found, expected, difference(loaded, trained), ours)
    found, loaded = exported(model.eval(), EXAMPLES, folder)
    off, onnx = (
        difference(loaded, trained),
        "tests/public/test_public_loops.py::test_exported_to_onnx",
    )
    yield Step(name, "export", found, expected, off, onnx, "ONNX")
