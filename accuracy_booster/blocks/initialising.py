"""How the layers of a gate are initialised."""

from __future__ import annotations

import math

import torch
from torch import nn

INITS = ("default", "kaiming_normal", "zeros", "ones")


def initialise(weight: torch.Tensor, bias: torch.Tensor | None, init: str) -> None:
    """Fill a layer's weight [out, in / groups, ...] and bias in place.

    The paper states no initialisation and says that its CIFAR results were made with PyTorch. So
    `default` is the default of `nn.Conv2d` and `nn.Linear`: U(-k, k), k = 1 / sqrt(fan_in). For AB
    the fan_in is 1, and k = 1. For AB the choice matters little: the batch norm after the weight w
    divides by the spread of w * d, so only the sign of w and eps / w^2 have an effect.
    """
    with torch.no_grad():
        if init == "default":
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            if bias is not None:
                bound = 1 / math.sqrt(weight[0].numel())
                nn.init.uniform_(bias, -bound, bound)
            return
        if init == "kaiming_normal":
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        else:
            nn.init.constant_(weight, 0.0 if init == "zeros" else 1.0)
        if bias is not None:
            nn.init.zeros_(bias)
