"""Modules that wrap a network or a part of it (compiled, parallel, averaged)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def wrapped_child(module: nn.Module) -> str | None:
    """The name of the child that a module wraps; None if it is no wrapper."""
    from torch._dynamo.eval_frame import OptimizedModule

    if isinstance(module, OptimizedModule):
        return "_orig_mod"
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
    if isinstance(module, (*parallel, *_timm_averages())):
        return "module"
    for name in ("_fsdp_wrapped_module", "_checkpoint_wrapped_module"):
        if name in module._modules:
            return name
    return None


def _timm_averages() -> tuple[type[nn.Module], ...]:
    """timm's classes for moving averages; none if timm has not been imported."""
    if "timm" not in sys.modules:
        return ()
    from timm.utils import ModelEmaV2, ModelEmaV3

    return ModelEmaV2, ModelEmaV3


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside all wrappers around it.

    Raises:
        ValueError: if it is no module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    while (name := wrapped_child(model)) is not None:
        model = model.get_submodule(name)
    return model


def own_names(model: nn.Module) -> dict[str, str]:
    """{name of a module: the name that it would have if no part of the network were wrapped}."""
    return dict(_own_names(model, "", ""))


def _own_names(module: nn.Module, name: str, own: str) -> Iterator[tuple[str, str]]:
    yield name, own
    wrapped = wrapped_child(module)
    for child, inner in module._modules.items():
        if inner is not None:
            full = f"{name}.{child}" if name else child
            inner_own = own if child == wrapped else f"{own}.{child}" if own else child
            yield from _own_names(inner, full, inner_own)


def tensors(model: nn.Module, *, keep_vars: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a network's state dict, by their names without wrappers.

    A module's extra state is left out unless it is a tensor.
    """
    names = own_names(model)
    found = {}
    for key, value in model.state_dict(keep_vars=keep_vars).items():
        module, _, leaf = key.rpartition(".")
        while module not in names:  # a parameter whose own name has dots
            module, _, rest = module.rpartition(".")
            leaf = f"{rest}.{leaf}"
        if isinstance(value, torch.Tensor):
            found[f"{names[module]}.{leaf}" if names[module] else leaf] = value
    return found
