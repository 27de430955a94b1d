"""Put gates in the place of attention modules that a network has, and put those back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from accuracy_booster.surgery.gated import gate_of
from accuracy_booster.surgery.sites import Site

if TYPE_CHECKING:
    from typing_extensions import Self


class Replaced(nn.Identity):
    """Stands where an attention module was, and keeps that module for `ab.unboost`.

    The original is no child: its parameters are not those of the boosted network. It still follows
    the network's mode, device and dtype.
    """

    original: nn.Module

    def __init__(self, original: nn.Module):
        super().__init__()
        self.__dict__["original"] = original  # `self.original = ...` would make it a child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = gate_of(self)
        if gate is not None and not gate.enabled:  # within `ab.disabled`
            return self.original(x)
        return x

    def train(self, mode: bool = True) -> Self:
        self.original.train(mode)
        return super().train(mode)

    def _apply(self, fn: Callable[[torch.Tensor], Any], recurse: bool = True) -> Self:
        self.original._apply(fn, recurse)
        return super()._apply(fn, recurse)


def replace_attention(model: nn.Module, sites: Iterable[Site]) -> None:
    """Put an identity where each site's module is, in place; `put_back_attention` undoes it."""
    for site in sites:
        parent, _, child = site.name.rpartition(".")
        original = model.get_submodule(site.name)
        stand_in = Replaced(original).train(original.training)
        setattr(model.get_submodule(parent), child, stand_in)


def put_back_attention(model: nn.Module) -> None:
    """Put the original of each replaced module back, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Replaced):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.original)
