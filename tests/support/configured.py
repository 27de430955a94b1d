"""Networks that are built from a configuration, as ultralytics and transformers build theirs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock


class Config:
    """What a transformers network is built from, with as much of its interface as matters."""

    model_type = "stand_in"

    def __init__(self, **values: Any):
        self.__dict__.update({"width": 8, **values})

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.__dict__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.__dict__ == other.__dict__


class Base(nn.Module):
    """The base network of `Head`."""

    base_model_prefix = "base"

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(nn.Conv2d(3, config.width, 3, padding=1), nn.ReLU())
        self.encoder = nn.Sequential(*(BasicBlock(config.width, config.width) for _ in range(2)))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.stem(x))


class Head(nn.Module):
    """A classifier that shares its configuration with the base network in it."""

    base_model_prefix = "base"

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.base = Base(config)
        self.head = nn.Linear(config.width, 3)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.base(x).mean((2, 3)))


class FromDict(nn.Module):
    """Builds its one child from a dict, runs a pass and then sets norms by their exact class."""

    def __init__(self, cfg: dict[str, Any]):
        super().__init__()
        self.yaml = cfg
        self.model = layers(copy.deepcopy(self.yaml))
        self.model.eval()
        self.stride = 32 / self.forward(torch.zeros(1, 3, 32, 32)).shape[-1]
        self.model.train()
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def layers(cfg: dict[str, Any]) -> nn.Sequential:
    width = cfg["width"]
    blocks = [BasicBlock(width, width) for _ in range(cfg["depth"])]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks)


def initialise(model: nn.Module) -> None:
    """What constructors do at their end: set what they know by its class, gates as well."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.eps, module.momentum = 1e-3, 0.03
        if isinstance(module, nn.Conv2d) and not getattr(module, "_is_hf_initialized", False):
            nn.init.normal_(module.weight, std=0.2)
