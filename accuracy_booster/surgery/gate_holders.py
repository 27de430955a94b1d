"""Which layer inside a module holds the module's gate."""

from __future__ import annotations

from typing import Any

from torch import nn

from accuracy_booster.surgery.gated import ATTRIBUTE, PATH

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_RUN_NO_CHILDREN = (*NORMS, nn.modules.conv._ConvNd, nn.Linear)


def holder_of(module: nn.Module) -> str:
    """The name, inside a module, of the layer that holds its gate; "" for the module itself.

    In a container it is the last convolution or linear layer, or else the last module without
    children.

    Raises:
        ValueError: for a container with no layer that could.
    """
    if isinstance(module, _RUN_NO_CHILDREN):
        return ""
    inside = [(name, m) for name, m in module.named_modules() if name]
    inside = [(n, m) for n, m in inside if f".{ATTRIBUTE}." not in f".{n}."]
    if not inside and not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return ""
    free = [(n, m) for n, m in inside if not hasattr(m, ATTRIBUTE)]
    layers = [n for n, m in free if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))]
    leaves = [n for n, m in free if not any(True for _ in m.children())]
    leaves = [n for n in leaves if not isinstance(module.get_submodule(n), nn.Sequential)]
    if not layers and not leaves:
        raise ValueError(
            f"a {type(module).__name__} without a layer inside cannot hold a gate; name the module "
            "before or around it, or put an nn.Identity in it"
        )
    return (layers or leaves)[-1]


def use_holder_names(module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Rename the gate's keys of a state dict from when containers held their gates themselves."""
    path = getattr(module, PATH)
    if len(path) < 2:
        return
    before, after = f"{prefix}{ATTRIBUTE}.", f"{prefix}{'.'.join(path)}."
    for key in [key for key in state_dict if key.startswith(before)]:
        state_dict[after + key.removeprefix(before)] = state_dict.pop(key)
