"""Boost a network in place, take the gates off again."""

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.blocks import Recipe
from accuracy_booster.surgery import storage
from accuracy_booster.surgery.attach import (
    Model,
    attach,
    attached,
    detach,
    has_kept_gates,
)
from accuracy_booster.surgery.attention import put_back_attention, replace_attention
from accuracy_booster.surgery.examples import infer_examples, traced
from accuracy_booster.surgery.passes import Example
from accuracy_booster.surgery.planning import make_plan
from accuracy_booster.surgery.refusing import is_lazy
from accuracy_booster.surgery.where import Where


def boost(
    model: Model,
    recipe: str | Recipe = "ab",
    *,
    example: Example | None = None,
    where: Where = "residual",
    init: str = "paper",
    optimizer: torch.optim.Optimizer | None = None,
) -> Model:
    """Put a gate on every residual branch of any network (or elsewhere), in place.

    The names of the network's own parameters and buffers stay as they are; those of the gates are
    under `<module>.recalibrate`. Nothing has changed if it raises.

    Args:
        model, recipe, example, where: as for `ab.plan`.
        init: "paper", or "identity": the output stays bit for bit what it was, in eval and in
            training mode, and the gates learn. Use it for pretrained networks.
        optimizer: a live optimizer of the model; each new parameter joins the group of the
            parameter of the same kind (a weight, or a norm's or a bias) nearest to its site.

    Returns:
        The model.

    Raises:
        ValueError: as `ab.plan`.
    """
    planned = make_plan(model, recipe, example=example, where=where, init=init, stacklevel=3)
    sites = [gate.site for gate in planned.gates]
    if is_lazy(model):
        traced(model, infer_examples(model) if example is None else [example])
    if optimizer is not None:
        _check_optimizer(optimizer, model)
    storage.remember(model)
    if where == "attention":
        replace_attention(model, sites)
    attach(model, planned.recipe, sites)
    if optimizer is not None:
        _join(optimizer, model)
    return model


def unboost(model: Model) -> Model:
    """Take every gate off, in place, and put replaced attention modules back; returns the model.

    Raises:
        ValueError: if there is none.
    """
    if not attached(model) and not has_kept_gates(model):
        raise ValueError(f"{type(model).__name__} has no gates to take off")
    detach(model)
    put_back_attention(model)
    storage.forget(model)
    return model


def freeze_norms(model: Model, *, gates: bool = False) -> Model:
    """Freeze the batch norms of a network, as detectors do, and let its gates learn; in place.

    The norms use their running statistics, and their weights and biases get no gradient. A gate is
    a child of the norm that it follows, so a loop that freezes each norm would freeze the gate too.
    Call it after `model.train()`, which puts all norms into training mode again.

    Args:
        model: a network, boosted or not.
        gates: freeze the norms inside the gates too.

    Returns:
        The model.
    """
    of_gates = {id(m) for gate in attached(model).values() for m in gate.modules()}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if id(module) in of_gates and not gates:
                continue
            module.training = False
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    return model


def added_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the gates, for an optimizer."""
    return [p for gate in attached(model).values() for p in gate.parameters()]


def _check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer is no torch.optim.Optimizer but {type(optimizer).__name__}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise ValueError("the optimizer holds no parameter of the model; make it for this model")


def _join(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
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
    """The group of a parameter of the same kind, in the site's module, else around it."""
    while True:
        for parameter in reversed(list(modules[name].parameters())):
            same_kind = (parameter.ndim > 1) == weight and id(parameter) not in own
            if same_kind and id(parameter) in group_of:
                return group_of[id(parameter)]
        if not name:
            return 0
        name = name.rpartition(".")[0]
