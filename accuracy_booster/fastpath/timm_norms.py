"""timm's norms with an activation inside, for networks that have them."""

from __future__ import annotations

import sys

from torch import nn

from accuracy_booster.surgery.gated import ungated_class


def norm_act_classes() -> tuple[type[nn.Module], ...]:
    """timm's BatchNormAct2d and its synchronised form; none if timm has not been imported."""
    if "timm" not in sys.modules:
        return ()
    from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct

    return BatchNormAct2d, SyncBatchNormAct


def after_norm(module: nn.Module) -> list[nn.Module]:
    """What such a norm does after normalising, identities left out; [] for other norms."""
    if ungated_class(module) not in norm_act_classes():
        return []
    steps = [getattr(module, name, None) for name in ("drop", "act")]
    return [m for m in steps if isinstance(m, nn.Module) and not isinstance(m, nn.Identity)]
