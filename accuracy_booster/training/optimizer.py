"""The optimizer of the trainable parameters, in groups of one learning rate and one weight decay.

"sgd" is torch's. Every other name is one of timm's `create_optimizer_v2`.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from accuracy_booster.errors import unknown
from accuracy_booster.surgery import added_parameters
from accuracy_booster.training.layer_rates import layer_scales
from accuracy_booster.training.run_config import RunConfig

PLAIN = (bool, int, float, str, type(None))  # what a checkpoint holds beside tensors


def make_optimizer(
    network: nn.Module, config: RunConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """The optimizer with the rates and weight decays of a configuration.

    Each group keeps its full rate in `lr0`; `learning_rate.set_rates` derives `lr` from it.

    Args:
        fused: use torch's fused implementation, where there is one.

    Raises:
        ValueError: for an unknown optimizer, or settings that do not fit it.
    """
    gates = {id(p) for p in added_parameters(network)}
    decay_of_layers = getattr(config, "layer_decay", None)  # detection has none
    scales = {} if decay_of_layers is None else layer_scales(network, decay_of_layers)
    undecayed = () if config.optimizer == "sgd" else _undecayed(network)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay, own_decay = config.lr, config.weight_decay, None
        if id(parameter) in gates:
            rate, own_decay = config.gate_lr or config.lr, config.gate_weight_decay
        elif parameter.ndim < 2 or name in undecayed:  # the parameters of norms, and biases
            own_decay = config.norm_weight_decay
        rate *= scales.get(name, 1.0)
        group = rate, decay if own_decay is None else own_decay
        groups.setdefault(group, []).append(parameter)
    return _make(
        config,
        [
            {"params": members, "lr": rate, "lr0": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ],
        fused=fused,
    )


def check_optimizer(config: RunConfig) -> None:
    """Try the optimizer of a configuration on two small parameters, before any data are read.

    Raises:
        ValueError: for an unknown one, settings that do not fit it, or one whose state a
            checkpoint cannot hold: its training could not be resumed.
    """
    if config.optimizer == "sgd":
        return
    layer = nn.Linear(3, 2)
    parameters = [{"params": [p], "lr": config.lr, "lr0": config.lr} for p in layer.parameters()]
    optimizer = _make(config, parameters, fused=False)
    with torch.random.fork_rng(devices=[]):
        layer(torch.ones(2, 3)).square().sum().backward()
        try:
            optimizer.step()
        except (RuntimeError, TypeError, ValueError) as e:
            raise _refused(config, f"takes another kind of step: {e}") from e
    for state in optimizer.state.values():
        for name, value in state.items():
            if not isinstance(value, (torch.Tensor, *PLAIN)):
                kind = f"{name} is a {type(value).__name__}"
                raise _refused(config, f"keeps a state that a checkpoint cannot hold ({kind})")


def _make(config: RunConfig, groups: list[dict[str, Any]], *, fused: bool) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            fused=fused,
        )
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    name, known = config.optimizer.lower(), [str(known) for known in list_optimizers()]
    if name not in known:  # also timm's lookahead_..., whose state cannot be told from outside
        raise unknown("optimizer", config.optimizer, known, "sgd is torch's, the others timm's")
    info = get_optimizer_info(name)
    if info.second_order:
        raise _refused(config, "needs second derivatives, which a training does not compute")
    more: dict[str, Any] = {"momentum": config.momentum}
    if not info.has_momentum:
        more |= _betas(config, info.opt_class)
    if fused and name in ("adam", "adamw"):
        more["fused"] = True
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            groups, name, lr=config.lr, weight_decay=config.weight_decay, **more
        )
    except (ImportError, TypeError, ValueError, RuntimeError, AssertionError) as e:
        raise _refused(config, f"cannot be made here: {e}") from e
    return made


def _betas(config: RunConfig, kind: Any) -> dict[str, Any]:
    """The betas of an optimizer like Adam, whose first one is the momentum.

    An optimizer with another number of betas keeps its own.
    """
    own = inspect.signature(kind).parameters.get("betas") if callable(kind) else None
    betas = None if own is None else own.default
    if isinstance(betas, tuple) and len(betas) == 2:
        return {"betas": (config.momentum, betas[1])}
    if config.momentum != RunConfig.momentum:
        raise _refused(config, f"takes no momentum; leave out momentum={config.momentum:g}")
    return {}


def _undecayed(network: nn.Module) -> set[str]:
    """The parameters that timm's networks themselves exclude from weight decay, by name."""
    ask = getattr(network, "no_weight_decay", None)
    return set(ask()) if callable(ask) else set()


def _refused(config: RunConfig, reason: str) -> ValueError:
    reason = " ".join(reason.split())[:200]
    return ValueError(f"optimizer={config.optimizer!r} {reason}; adamw or sgd works")
