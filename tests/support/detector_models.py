"""Tiny detectors, images for them, and what is compared of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.detection import Detector, faster_rcnn
from accuracy_booster.detection.norms import batch_norms

# warnings that the tests of tiny networks are not about
QUIET = [
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:the network has 9 attention modules"),
    pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet"),
]
SMALL: dict[str, Any] = {
    "num_classes": 3,
    "min_size": 64,
    "max_size": 96,
    "rpn_post_nms_top_n_test": 20,
}
FEW = {**SMALL, "rpn_post_nms_top_n_train": 50, "box_batch_size_per_image": 16}
TINY = "timm/test_resnet"  # stages of 32, 48, 192 and 96 channels
BOXES = [torch.tensor([[8.0, 8, 50, 60], [20, 4, 60, 50]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([1, 2]), torch.zeros(0, dtype=torch.int64)]


Model = TypeVar("Model", bound=nn.Module)
Detections = Sequence[dict[str, torch.Tensor]]


def images(count: int = 2, seed: int = 0, size: tuple[int, int] = (64, 80)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for _ in range(count)]


def targets() -> list[dict[str, torch.Tensor]]:
    return [{"boxes": b.clone(), "labels": n} for b, n in zip(BOXES, LABELS, strict=True)]


def tiny(**more: Any) -> Detector:
    """A detector whose gates and weights are random, the same each time."""
    torch.manual_seed(0)
    network = ab.create_model(TINY, zero_init_last=False)
    return faster_rcnn(network, **{**FEW, "block": "ab", **more})


def learn(model: nn.Module, rate: float = 0.1) -> set[str]:
    """One step of SGD; the names of the parameters that have a gradient."""
    model.train()
    sum(model(images(), targets()).values()).backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None}
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], rate).step()
    return moved


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def gates_of(names: Iterable[str]) -> set[str]:
    return {name for name in names if ".recalibrate." in name}


def assert_same_boxes(first: Detections, second: Detections, exact: bool = True) -> None:
    for a, b in zip(first, second, strict=True):
        assert len(a["boxes"]) > 0
        for key in ("boxes", "scores", "labels"):
            if exact:
                assert torch.equal(a[key], b[key])
            else:
                torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-4)


def spread_statistics(model: Model, seed: int = 1) -> Model:
    """Give batch norms statistics and weights that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "running_mean"):
            for name, low in (("running_mean", -0.2), ("running_var", 0.6), ("weight", 0.6)):
                tensor = getattr(module, name).data
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + low)
    return model


def modes(model: nn.Module) -> set[bool]:
    """Whether batch norms are in training mode: one value if all are alike."""
    return {norm.training for norm in batch_norms(model).values()}
