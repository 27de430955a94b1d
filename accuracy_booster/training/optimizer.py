"""SGD on the trainable parameters, in groups of one learning rate and one weight decay."""

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.surgery import added_parameters
from accuracy_booster.training.run_config import RunConfig


def make_optimizer(
    network: nn.Module, config: RunConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """SGD with the rates and weight decays of a configuration.

    Each group keeps its full rate in `lr0`; `learning_rate.set_rates` derives `lr` from it.

    Args:
        fused: use torch's fused implementation.
    """
    gates = {id(p) for p in added_parameters(network)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        rate, decay, own_decay = config.lr, config.weight_decay, None
        if id(parameter) in gates:
            rate, own_decay = config.gate_lr or config.lr, config.gate_weight_decay
        elif parameter.ndim < 2:  # the parameters of norms, and biases
            own_decay = config.norm_weight_decay
        group = rate, decay if own_decay is None else own_decay
        groups.setdefault(group, []).append(parameter)
    return torch.optim.SGD(
        [
            {"params": members, "lr": rate, "lr0": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        fused=fused,
    )
