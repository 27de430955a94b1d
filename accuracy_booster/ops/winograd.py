"""The weights of a 3x3 convolution in Winograd's form, F(m x m, 3x3).

A tile of m x m outputs then takes (m + 2)^2 products for each pair of channels in place of 9 m^2.
`winograd_conv.h` computes the convolution, and says more.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

# C input channels, K output channels, A = m + 2

from __future__ import annotations

import torch
from torch import nn

NEAR, FAR = 11 / 16, 11 / 8  # with 0 and infinity, the points of m = 4: as in winograd_conv.h


def takes(conv: nn.Conv2d) -> bool:
    """Whether a convolution has this form: 3x3, with stride 1, dilation 1 and one group."""
    ones = (1, 1)
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == ones
        and conv.dilation == ones
        and conv.groups == 1
    )


def matrix(outputs: int) -> torch.Tensor:
    """G [A, 3] of tiles with `outputs` outputs a side, 2 or 4: it transforms the weights."""
    if outputs == 2:
        rows = [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]
        return torch.tensor(rows, dtype=torch.float64)
    near, far = NEAR**2, FAR**2
    zero, at_near, at_far = near * far, 2 * near * (near - far), 2 * far * (far - near)
    rows = [[1 / zero, 0.0, 0.0]]
    rows += [[1 / at_near, p / at_near, near / at_near] for p in (NEAR, -NEAR)]
    rows += [[1 / at_far, p / at_far, far / at_far] for p in (FAR, -FAR)]
    return torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)


def transform(weight: torch.Tensor, outputs: int) -> torch.Tensor:
    """weight[K, C, 3, 3] -> G w G^T, [A * A, K, C].

    Raises:
        ValueError: for another kernel than 3x3.
    """
    if weight.shape[2:] != (3, 3):
        size = "x".join(map(str, weight.shape[2:]))
        raise ValueError(f"Winograd's form is for 3x3 kernels, and this one is {size}")
    g = matrix(outputs)
    return torch.einsum("ai,kcij,bj->abkc", g, weight.double(), g).flatten(0, 1).to(weight.dtype)


def transform_back(points: torch.Tensor, outputs: int) -> torch.Tensor:
    """[A * A, K, C] -> weight[K, C, 3, 3]."""
    inverse = torch.linalg.pinv(matrix(outputs))
    square = points.unflatten(0, (outputs + 2, outputs + 2)).double()
    return torch.einsum("ia,abkc,jb->kcij", inverse, square, inverse).to(points.dtype)
