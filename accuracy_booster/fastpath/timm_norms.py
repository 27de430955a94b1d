"""timm's batch norms with an activation inside. timm is imported only if the user has done so."""

from __future__ import annotations

import sys

from torch import nn

from accuracy_booster.surgery.gated import ungated_class


def norm_act_classes() -> tuple[type[nn.Module], ...]:
    """(BatchNormAct2d, SyncBatchNormAct) of timm; () if timm has not been imported."""
    if "timm" not in sys.modules:
        return ()
    from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct

    return BatchNormAct2d, SyncBatchNormAct


def after_norm(module: nn.Module) -> list[nn.Module]:
    """The dropout and the activation of such a norm, without identities; [] for other modules."""
    if ungated_class(module) not in norm_act_classes():
        return []
    steps = [getattr(module, name, None) for name in ("drop", "act")]
    return [m for m in steps if isinstance(m, nn.Module) and not isinstance(m, nn.Identity)]
