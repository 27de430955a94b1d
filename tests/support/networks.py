"""Networks whose norms, gates and layer scales are far from the identity."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def randomise(
    model: Network,
    *,
    seed: int | None = None,
    spread: float = 0.5,
    signs: bool = False,
    weights: bool = False,
) -> Network:
    """Give a network the norms, statistics, gates and layer scales of a trained one, in place.

    In a fresh network these are ones and zeros, and a test that leaves them so cannot see a factor
    or a shift that is lost or applied twice. U is the uniform and N the normal distribution; s is
    `spread`:

    - scales (norms' weights, layer scales, and other parameters that are vectors or constant):
      U(1 - s, 1 + s)
    - biases, and running means: N(0, s^2)
    - running variances: U(0.5, 2)
    - parameters of gates, except their norms': N(0, 1 / fan-in), where a vector has fan-in 1
    - weights of convolutions and linear layers: as they are; with `weights` N(0, 1 / fan-in)

    Args:
        model: a network or a gate, frozen norms included. Its mode and dtype do not change.
        seed: of a generator of its own; by default the values come from torch's global one.
        spread: s. Sites differ by more, and outputs grow more from block to block, with a larger s.
        signs: half of the scales are negative.
        weights: whether the weights of convolutions and linear layers are drawn anew too.

    Returns:
        The model.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    gates = [module for module in model.modules() if isinstance(module, Recalibrate)]
    in_gates = {module for gate in gates for module in gate.modules()}

    def draw_scale(tensor: torch.Tensor) -> None:
        tensor.uniform_(1 - spread, 1 + spread, generator=generator)
        if signs:
            tensor.mul_(torch.rand(tensor.shape, generator=generator).to(tensor).sub_(0.5).sign_())

    for module in model.modules():
        is_norm = hasattr(module, "running_var")
        held = dict(module.named_parameters(recurse=False))  # of scripted modules too
        held |= dict(module.named_buffers(recurse=False)) if is_norm else {}
        for name, tensor in held.items():
            if not tensor.is_floating_point():
                continue
            if name == "running_var":
                tensor.uniform_(0.5, 2, generator=generator)
            elif name == "running_mean" or (is_norm and name == "bias"):
                tensor.normal_(std=spread, generator=generator)
            elif module in in_gates and not is_norm:
                tensor.normal_(std=_std(tensor), generator=generator)
            elif name.endswith("bias"):
                tensor.normal_(std=spread, generator=generator)
            elif tensor.ndim <= 1 or bool((tensor == tensor.flatten()[0]).all()):
                draw_scale(tensor)
            elif weights:
                tensor.normal_(std=_std(tensor), generator=generator)
    return model


def _std(tensor: torch.Tensor) -> float:
    """1 / sqrt(fan-in); 1 for vectors."""
    return 1 / math.sqrt(tensor[0].numel())
