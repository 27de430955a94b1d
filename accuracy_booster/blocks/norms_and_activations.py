"""The parts between and after a gate's layers: batch norm, ReLU and the sigmoid at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from accuracy_booster.blocks.gate_norm import GateNorm
from accuracy_booster.blocks.part import Context, Kind, Part, check, is_number


@dataclass(frozen=True)
class Relu(Part):
    """A ReLU between two layers (Gather-Excite's authors have one between gather and excite)."""

    name: ClassVar[str] = "relu"

    def build(self, at: Context) -> nn.Module:
        return nn.ReLU()


@dataclass(frozen=True)
class Bn(Part):
    """Batch norm. `init` is the initial value of gamma; beta starts at 0."""

    eps: float = 1e-5
    momentum: float = 0.1
    init: str = "ones"
    name: ClassVar[str] = "bn"
    takes: ClassVar[tuple[Kind, ...]] = ("map", "vector", "plane")

    def __post_init__(self) -> None:
        check(self, "eps", is_number(self.eps) and self.eps > 0, "a number > 0")
        in_range = is_number(self.momentum) and 0 < self.momentum <= 1
        check(self, "momentum", in_range, "a number in (0, 1]")
        check(self, "init", self.init in ("ones", "zeros"), "ones or zeros")

    def build(self, at: Context) -> nn.Module:
        channels = 1 if at.kind == "plane" else at.channels
        return GateNorm(channels, eps=self.eps, momentum=self.momentum, init=self.init)


@dataclass(frozen=True)
class Sigmoid(Part):
    """p = scale * sigmoid(...), the last part of every gate. The paper's scale is 1."""

    scale: float = 1
    name: ClassVar[str] = "sigmoid"
    takes: ClassVar[tuple[Kind, ...]] = ("map", "vector", "plane")

    def __post_init__(self) -> None:
        check(self, "scale", is_number(self.scale) and self.scale > 0, "a number > 0")

    def build(self, at: Context) -> nn.Module:
        return nn.Sigmoid()
