"""Put gates in the place of attention modules that a network has, and put those back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from accuracy_booster.surgery.gated import gate_of
from accuracy_booster.surgery.sites import Site


class Replaced(nn.Identity):
    """Stands where an attention module was; keeps that module, unregistered, for `unboost`."""

    def __init__(self, original: nn.Module):
        super().__init__()
        self.__dict__["original"] = original

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = gate_of(self)
        if gate is not None and not gate.enabled:  # within `ab.disabled`
            return self.__dict__["original"](x)
        return x

    def train(self, mode: bool = True):
        self.__dict__["original"].train(mode)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True):
        self.__dict__["original"]._apply(fn, recurse)  # it follows the model's device and dtype
        return super()._apply(fn, recurse)


def replace_attention(model: nn.Module, sites: Iterable[Site]) -> None:
    """Put an identity where each site's module is; `put_back_attention` undoes it."""
    for site in sites:
        parent, _, child = site.name.rpartition(".")
        original = model.get_submodule(site.name)
        stand_in = Replaced(original).train(original.training)
        setattr(model.get_submodule(parent), child, stand_in)


def put_back_attention(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, Replaced):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.__dict__["original"])
