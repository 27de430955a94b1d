"""How a gate's weights are applied to a feature map."""

# N batch, C channels, H W space (any number of dimensions, or none)

from __future__ import annotations

import torch
import torch.nn.functional as F

from accuracy_booster.ops.fx_leaves import leaf


@leaf
def rescale(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """x[N, C, H, W] * weights, in x's dtype and memory format (section 3: `p_k * x_k`).

    `weights` is [N, C] (one per channel), [N, 1, H, W] (one per position) or [N, C, h, w] (one per
    channel and position). A coarser map h x w is enlarged to H x W by nearest neighbour, as in
    Gather-Excite.
    """
    if weights.ndim == 2:
        weights = weights[(..., *[None] * (x.ndim - 2))]
    elif weights.shape[2:] != x.shape[2:]:
        weights = F.interpolate(weights, size=x.shape[2:], mode="nearest")
    return x * weights.to(x.dtype)
