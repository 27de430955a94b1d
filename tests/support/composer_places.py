"""What MosaicML composer's algorithms do to modules, in code of ours.

composer needs an older torch than the other packages, so it is not installed beside them.
`test_public_composer.py` runs its own functions where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from support.halved_networks import Block
from support.places import KEPT, Place


def _by_class(kind: type[nn.Module], make: Callable[[nn.Module], nn.Module | None]) -> Any:
    """Composer's `replace_module_classes`: children are found first, then set."""

    def tool(model: nn.Module) -> None:
        found = [
            (parent, name, child)
            for parent in model.modules()
            for name, child in parent.named_children()
            if isinstance(child, kind)
        ]
        for parent, name, child in found:
            new = make(child)
            if new is not None:
                setattr(parent, name, new)

    return tool


class GhostNorm(nn.Module):
    """A norm that sees a few images at a time, as composer's ghost batch norm."""

    def __init__(self, batchnorm: nn.Module):
        super().__init__()
        self.batchnorm = batchnorm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.batchnorm(part) for part in x.chunk(2)])


class BlurredConvolution(nn.Module):
    """A filter before a convolution, which is copied, as in composer's blur pooling."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = nn.Conv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, bias=False
        )
        self.conv.weight = conv.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.avg_pool2d(x, 3, 1, 1))


class Factorised(nn.Sequential):
    """Two convolutions in the place of one, as in composer's factorization."""

    def __init__(self, conv: nn.Conv2d):
        torch.manual_seed(2)
        super().__init__(
            nn.Conv2d(conv.in_channels, 2, conv.kernel_size, padding=conv.padding, bias=False),
            nn.Conv2d(2, conv.out_channels, 1, bias=False),
        )


class WithAttention(nn.Module):
    """A convolution and weights of its channels after it, as composer's squeeze-excite."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv, self.weigh = conv, nn.Linear(conv.out_channels, conv.out_channels)
        nn.init.zeros_(self.weigh.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y * self.weigh(y.mean((2, 3))).sigmoid()[..., None, None]


class SkippedBlock(Block):
    """A block whose layers are those of another, as composer's stochastic depth makes them."""

    def __init__(self, block: Block):
        super().__init__()
        for name, child in block.named_children():
            setattr(self, name, child)


def _without_bias(make: Any) -> Callable[[nn.Module], nn.Module | None]:
    """Of the convolutions only those of the blocks."""
    return lambda conv: None if conv.bias is not None else make(conv)


COMPOSER = [
    Place(
        "composer",
        "apply_ghost_batchnorm",
        "wraps norms",
        "kept, inside the new norm",
        _by_class(nn.BatchNorm2d, GhostNorm),
    ),
    Place(
        "composer",
        "apply_blurpool",
        "rebuilds convolutions with stride",
        KEPT,
        _by_class(nn.Conv2d, _without_bias(BlurredConvolution)),
    ),
    Place(
        "composer",
        "apply_factorization",
        "makes two convolutions of one",
        KEPT,
        _by_class(nn.Conv2d, _without_bias(Factorised)),
    ),
    Place(
        "composer",
        "apply_squeeze_excite beside the gates",
        "wraps convolutions",
        KEPT,
        _by_class(nn.Conv2d, _without_bias(WithAttention)),
        ("norm",),
    ),
    Place(
        "composer",
        "apply_squeeze_excite on a gated convolution",
        "wraps convolutions",
        "kept, before the new weights; a warning says to wrap first",
        _by_class(nn.Conv2d, _without_bias(WithAttention)),
        ("conv",),
        warns="Wrap first and boost afterwards",
    ),
    Place(
        "composer",
        "apply_stochastic_depth",
        "makes blocks anew from their children",
        KEPT,
        _by_class(Block, SkippedBlock),
    ),
    Place(
        "composer",
        "utils.module_surgery.replace_module_classes",
        "replaces by class",
        KEPT,
        _by_class(nn.BatchNorm2d, lambda norm: nn.GroupNorm(2, norm.num_features)),
        ("norm",),
    ),
]
