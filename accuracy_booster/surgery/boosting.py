"""Put gates on a network in place, take them off again, and freeze its norms but not its gates."""

from __future__ import annotations

import torch
from torch import nn

from accuracy_booster.blocks import Recipe
from accuracy_booster.spelling import renamed
from accuracy_booster.surgery.attaching import attach, attached, detach
from accuracy_booster.surgery.attention import put_back_attention, replace_attention
from accuracy_booster.surgery.examples import infer_examples
from accuracy_booster.surgery.fingerprints import remember_base
from accuracy_booster.surgery.inputs import Example
from accuracy_booster.surgery.kept_gates import has_kept_gates
from accuracy_booster.surgery.optimizers import check_optimizer, join_optimizer
from accuracy_booster.surgery.planning import make_plan
from accuracy_booster.surgery.quiet_passes import traced
from accuracy_booster.surgery.refusing import is_lazy
from accuracy_booster.surgery.repairing import Model
from accuracy_booster.surgery.skipping import Skip
from accuracy_booster.surgery.state import update_state
from accuracy_booster.surgery.where import Where


@renamed("recipe", "block", position=1)
def boost(
    model: Model,
    block: str | Recipe = "ab",
    *,
    example: Example | None = None,
    where: Where = "residual",
    skip: Skip = None,
    init: str = "paper",
    optimizer: torch.optim.Optimizer | None = None,
) -> Model:
    """Put a gate on every residual branch of any network (or elsewhere), in place.

    The names of the network's own parameters and buffers stay as they are. Those of the gates are
    under `<module>.recalibrate`. If it raises, nothing has changed.

    Args:
        model, block, example, where, skip: as for `ab.plan`.
        init: "paper", or "identity": the output stays bit for bit what it was, in eval and in
            training mode, and the gates learn. Use it for pretrained networks.
        optimizer: a live optimizer of the model; each new parameter joins the group of the
            parameter of the same kind (a weight, or a norm's or a bias) nearest to its site.

    Returns:
        The model.

    Raises:
        ValueError: as `ab.plan`.
    """
    planned = make_plan(
        model, block, example=example, where=where, skip=skip, init=init, stacklevel=4
    )
    sites = [gate.site for gate in planned.gates]
    if is_lazy(model):  # a pass gives lazy modules their weights
        traced(model, infer_examples(model) if example is None else [example])
    if optimizer is not None:
        check_optimizer(optimizer, model)
    remember_base(model)
    if where == "attention":
        replace_attention(model, sites)
    attach(model, planned.recipe, sites)
    if optimizer is not None:
        join_optimizer(optimizer, model)
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
    update_state(model, base_fingerprints=None)
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
