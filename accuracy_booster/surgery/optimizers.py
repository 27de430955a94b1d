"""Let the parameters of new gates join an optimizer that is in use."""

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.surgery.listing import attached


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raise ValueError unless it is an optimizer that holds parameters of the model."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer is no torch.optim.Optimizer but {type(optimizer).__name__}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise ValueError("the optimizer holds no parameter of the model; make it for this model")


def join_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Add the parameters of the model's gates to an optimizer, in place.

    Each joins the group of the parameter of the same kind that is nearest to its site.
    """
    group_of = {
        id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]
    }
    modules = dict(model.named_modules())
    for name, gate in attached(model).items():
        own = {id(p) for p in gate.parameters()}
        for parameter in gate.parameters():
            if id(parameter) not in group_of:
                index = _nearest_group(modules, name, parameter.ndim > 1, own, group_of)
                optimizer.param_groups[index]["params"].append(parameter)


def _nearest_group(
    modules: dict[str, nn.Module], name: str, weight: bool, own: set[int], group_of: dict[int, int]
) -> int:
    """The group of the last parameter of the same kind in a module, else in the modules around it.

    Args:
        name: of the module at the site.
        weight: the kind: whether it has several dimensions, as a weight and no bias or norm has.
        own: ids of the gate's own parameters, which do not count.
        group_of: {id of a parameter that the optimizer holds: the index of its group}.
    """
    while True:
        for parameter in reversed(list(modules[name].parameters())):
            same_kind = (parameter.ndim > 1) == weight and id(parameter) not in own
            if same_kind and id(parameter) in group_of:
                return group_of[id(parameter)]
        if not name:
            return 0
        name = name.rpartition(".")[0]
