"""Which classes of layers and norms the fast path and pruning know, subclasses included."""

from __future__ import annotations

from torch import nn

from accuracy_booster.fastpath.timm_norms import norm_act_classes
from accuracy_booster.surgery.gated import ungated_class
from accuracy_booster.surgery.hooks import is_hooked

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (*CONVOLUTIONS, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
METHODS = ("__call__", "forward", "_conv_forward")


def computes_as(own: type, known: type) -> bool:
    """Whether a class computes what a known class does: it has that class's own methods."""
    return all(getattr(own, m, None) is getattr(known, m, None) for m in METHODS)


def layer_class(module: nn.Module) -> type[nn.Module] | None:
    """The class in LAYERS that a module computes as, also as a subclass; None if there is none."""
    known = next((known for known in LAYERS if isinstance(module, known)), None)
    return known if known is not None and computes_as(ungated_class(module), known) else None


def is_plain_layer(module: nn.Module) -> bool:
    """Whether it computes what one of LAYERS does, with a weight that is its own parameter.

    A parametrised weight (`torch.nn.utils.parametrize`) is no such parameter.
    """
    return layer_class(module) is not None and module._parameters.get("weight") is not None


def is_batch_norm(module: nn.Module) -> bool:
    """Whether its class, without a gate, is one of NORMS or timm's with an activation inside."""
    return ungated_class(module) in (*NORMS, *norm_act_classes())


def is_plain_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm with running statistics that no hook reads."""
    return (
        is_batch_norm(module)
        and getattr(module, "running_mean", None) is not None
        and not is_hooked(module)
    )
