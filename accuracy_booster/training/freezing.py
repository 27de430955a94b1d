"""Freeze the base network, so that a training changes the gates alone (and perhaps the head)."""

from __future__ import annotations

from torch import nn

from accuracy_booster.models.heads import heads
from accuracy_booster.surgery import attached
from accuracy_booster.training.train_config import TrainConfig


def freeze(network: nn.Module, config: TrainConfig, *, keeps_head: bool) -> list[nn.Module]:
    """Freeze what `config.freeze` says; returns the base network's norms, which stay in eval mode.

    Args:
        keeps_head: freeze the heads too, because they hold trained weights for these classes.

    Raises:
        ValueError: if nothing would be left to train.
    """
    if config.freeze == "none":
        return []
    gates = attached(network)
    if not gates:
        raise ValueError("freeze='base' leaves nothing to train without a block; give one")
    trained = {id(p) for gate in gates.values() for p in gate.parameters()}
    if not keeps_head:
        trained |= {id(p) for head in heads(network).values() for p in head.parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    inside = {id(module) for gate in gates.values() for module in gate.modules()}
    return [m for m in network.modules() if hasattr(m, "running_mean") and id(m) not in inside]
