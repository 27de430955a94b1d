"""A convolution and the weights of the gate at its output, in the order that the gate allows.

Both a fused convolution (`fused_modules`) and a folded one (`folded_modules`) run here.
"""

# N batch, C channels in, K channels out, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

from collections.abc import Callable

import torch

from accuracy_booster.ops import accumulation_dtype

Function = Callable[[torch.Tensor], torch.Tensor]


def gated_convolution(
    h: torch.Tensor, *, convolve: Function, weigh: Function, describe: Function | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """h[N, C, H, W] -> the convolution's output z[N, K, H', W'] and its gate's weights p[N, K].

    z is not multiplied by p yet.

    Args:
        convolve: h -> z. A linear layer may stand here too.
        weigh: descriptor -> p.
        describe: h -> the gate's descriptor, before the convolution runs. None if there is no such
            form: the descriptor then is the mean of z over space, [N, K].
    """
    if describe is not None:
        p = weigh(describe(h))
        z = convolve(h)
    else:
        z = convolve(h)
        p = weigh(mean_over_space(z))
    return z, p.to(accumulation_dtype(z.dtype))


def mean_over_space(z: torch.Tensor) -> torch.Tensor:
    """z[N, K, ...] -> [N, K], in float32 for 16-bit maps."""
    space, dtype = tuple(range(2, z.ndim)), accumulation_dtype(z.dtype)
    return z.mean(space, dtype=dtype) if space else z.to(dtype)
