"""Refuse models that cannot be boosted, fused or folded as they are, and say what to do instead."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy as _is_uninitialised

from accuracy_booster.surgery.state import state_of


def refuse_wrapped(model: nn.Module) -> None:
    """Raise ValueError for a model that must be boosted before it is wrapped."""
    from torch._dynamo.eval_frame import OptimizedModule

    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    if any(cls.__module__ == "ultralytics.engine.model" for cls in type(model).__mro__):
        raise ValueError(
            f"{type(model).__name__} is what ultralytics puts around a network; give its network, "
            "model.model"
        )
    parallel = nn.parallel.DistributedDataParallel | nn.DataParallel
    if isinstance(model, parallel):
        raise ValueError(
            f"the model is wrapped in {type(model).__name__}; give its model.module, and wrap that "
            "afterwards"
        )
    report = state_of(model).fast_path
    if report is not None and report.kind == "folded":
        raise ValueError(
            f"{type(model).__name__} is folded already, for inference; go back to the model that "
            "it was made from"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("the model is a TorchScript module; give the Python module instead")
    for name, module in model.named_modules():
        if isinstance(module, parallel):
            raise ValueError(
                f"the part {name!r} of the model is wrapped in {type(module).__name__}; wrap it "
                "afterwards"
            )
        if isinstance(module, OptimizedModule) or module._compiled_call_impl is not None:
            where = f"the part {name!r} of the model" if name else "the model"
            raise ValueError(
                f"{where} is compiled; do this first (boost, fuse, fold) and compile the result"
            )
        if _is_quantised(module):
            raise ValueError(f"the model is quantised (at {name!r}); boost it before quantising")


def _is_quantised(module: nn.Module) -> bool:
    """Whether a module holds quantised weights or computes on quantised maps.

    Some modules in torch's folders of quantised ones compute on floating-point numbers and are not
    meant: those that wait to be quantised (`FloatFunctional`), and the reference modules.
    """
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    if any(tensor.is_quantized for tensor in own):
        return True
    cls = next(c for c in type(module).__mro__ if c.__module__.startswith("torch."))
    names = cls.__module__.split(".")
    floating = cls.__name__ in ("FloatFunctional", "FXFloatFunctional") or "reference" in names
    return "quantized" in names and not floating


def is_lazy(model: nn.Module) -> bool:
    """Whether some weights have no shape before the first pass (nn.LazyConv2d, ...)."""
    return any(map(_is_uninitialised, (*model.parameters(), *model.buffers())))


def copy_of_lazy(model: nn.Module) -> nn.Module:
    """A copy of a network with lazy modules, for a pass that must not change it.

    `copy.deepcopy` alone fails: a buffer without a shape cannot be copied.
    """
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if _is_uninitialised(tensor):
            make: Any = type(tensor)
            memo[id(tensor)] = make(tensor.requires_grad, tensor.device, tensor.dtype)
    return copy.deepcopy(model, memo)
