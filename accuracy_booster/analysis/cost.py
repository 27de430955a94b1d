"""What a network costs: parameters and multiply-adds."""

# N batch, C channels, H W space

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from accuracy_booster.blocks import Dense
from accuracy_booster.surgery.planning import quiet_pass


@dataclass(frozen=True)
class Complexity:
    """Parameters, and multiply-adds (MACs) for one image.

    MACs are those of convolutions, dense layers and the gates' layers; norms, activations, pooling,
    scaling, sums and biases count nothing. (The paper prints MACs and calls them FLOPs.)
    """

    parameters: int
    macs: int


def complexity(model: nn.Module, input_size: tuple[int, int, int]) -> Complexity:
    """Count a network on one image [1, *input_size], by torch's own counter.

    That counter sees matrix multiplications and convolutions; a gate's one weight per channel is a
    product, which is added here. Nothing in the model changes.
    """
    products = 0

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal products
        if output.ndim == 2:
            products += output.numel()

    dense = [m for m in model.modules() if isinstance(m, Dense) and m.depthwise]
    handles = [m.register_forward_hook(count) for m in dense]
    try:
        with (
            quiet_pass(model, torch.zeros(1, *input_size)) as x,
            FlopCounterMode(display=False) as f,
        ):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    parameters = sum(p.numel() for p in model.parameters())
    return Complexity(parameters, f.get_total_flops() // 2 + products)
