"""A backbone and a classifier in the style of mmdetection, built from a configuration by mmengine.

Import it only where mmengine is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from support.halved_networks import Block

CHANNELS = 8
GATES = 2
INITIAL = [
    {"type": "Kaiming", "layer": "Conv2d"},
    {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
]


@MODELS.register_module(force=True)
class SmallBackbone(BaseModule):
    """Two residual stages. Its `train` freezes stages and norms, as mmdetection's ResNet does."""

    def __init__(self, frozen_stages: int = 0, norm_eval: bool = False):
        super().__init__(init_cfg=INITIAL)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.layer1, self.layer2 = Block(), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer2(self.layer1(self.stem(x)))

    def train(self, mode: bool = True) -> SmallBackbone:
        super().train(mode)
        for stage in range(1, self.frozen_stages + 1):
            frozen = getattr(self, f"layer{stage}").eval()
            for parameter in frozen.parameters():
                parameter.requires_grad = False
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


@MODELS.register_module(force=True)
class SmallClassifier(BaseModel):
    def __init__(self, backbone: Mapping[str, Any]):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.fc = nn.Linear(CHANNELS, 2)

    def forward(self, inputs: Any, labels: Any = None, mode: str = "tensor") -> Any:
        x = torch.stack(inputs) if isinstance(inputs, list) else inputs
        y = self.fc(self.backbone(x).mean((2, 3)))
        return {"loss": F.cross_entropy(y, torch.as_tensor(labels))} if mode == "loss" else y


def configuration(**backbone: Any) -> dict[str, Any]:
    return {"type": "SmallClassifier", "backbone": {"type": "SmallBackbone", **backbone}}


def build(**backbone: Any) -> SmallClassifier:
    torch.manual_seed(0)
    return MODELS.build(configuration(**backbone))


def runner(model: Any, folder: Path, *, epochs: int = 1, **options: Any) -> Runner:
    """mmengine's Runner: two iterations an epoch, a checkpoint after each."""
    generator = torch.Generator().manual_seed(1)
    data = [
        {"inputs": torch.randn(3, 8, 8, generator=generator), "labels": i % 2} for i in range(32)
    ]
    number = len(list(folder.iterdir())) if folder.is_dir() else 0
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=DataLoader(data, batch_size=16),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        log_level="ERROR",
        experiment_name=f"{folder.name}-{epochs}-{number}",
        **options,
    )
