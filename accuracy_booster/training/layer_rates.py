"""Layer-wise decay of the learning rate: the nearer a layer is to the image, the less it learns.

The rule and the layers are timm's (`timm.optim.param_groups_layer_decay`).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

from accuracy_booster.models.heads import heads
from accuracy_booster.surgery.gated import ATTRIBUTE, is_of_gate


def layer_scales(network: nn.Module, decay: float) -> dict[str, float]:
    """The factor of each parameter's learning rate, by the parameter's name.

    It is 1 in the last layer and is multiplied by `decay` from each layer to the one before it. A
    gate belongs to the layer of its site.
    """
    layers = _layers_of_base(network)
    last = max(layers.values(), default=0)
    for name, _ in network.named_parameters():
        site, is_gate, _ = f".{name}".partition(f".{ATTRIBUTE}.")
        if is_gate:
            layers[name] = _layer_of_site(site.removeprefix("."), layers, last)
    return {name: decay ** (last - layer) for name, layer in layers.items()}


def _layers_of_base(network: nn.Module) -> dict[str, int]:
    """The number of the layer of each parameter that belongs to no gate.

    timm's networks say which parameters form a layer. In others, twelve parameters in a row do, and
    the head is a layer of its own.
    """
    from timm.models import group_parameters
    from timm.optim._param_groups import auto_group_layers

    named = [(n, p) for n, p in network.named_parameters() if not is_of_gate(n)]
    base: Any = SimpleNamespace(named_parameters=lambda: named)  # the network without its gates
    matcher = getattr(network, "group_matcher", None)
    if callable(matcher):
        return dict(group_parameters(base, matcher(coarse=False), reverse=True))
    base.pretrained_cfg = {"classifier": tuple(f"{name}." for name in heads(network))}
    return dict(auto_group_layers(base))


def _layer_of_site(site: str, layers: dict[str, int], last: int) -> int:
    """The layer of the module that holds a gate, or of the module around it if it has none."""
    while site:
        inside = [
            layer
            for name, layer in layers.items()
            if name.startswith(f"{site}.") and not is_of_gate(name)
        ]
        if inside:
            return max(inside)
        site = site.rpartition(".")[0]
    return last
