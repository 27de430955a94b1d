"""How a norm or convolution becomes its fused form, and what it was again.

Only the class of the module changes. So its parameters, buffers, children and hooks stay the same
objects under the same names: optimizers, state dicts and other tools' references remain valid.
"""

from __future__ import annotations

from torch import nn

from accuracy_booster.fastpath import fused_modules
from accuracy_booster.fastpath.epilogue import Epilogue
from accuracy_booster.fastpath.timm_norms import norm_act_classes
from accuracy_booster.surgery.gated import is_gated, ungated_class
from accuracy_booster.surgery.gating import gated_class


def has_fused_class(module: nn.Module) -> bool:
    """Whether there is a fused form of a module's class."""
    return ungated_class(module) in _fused_classes()


def to_fused_class(module: nn.Module, epilogue: Epilogue) -> None:
    """Make a module, with a gate or without, the fused form of itself, in place.

    Args:
        module: one for which `has_fused_class` is true.
        epilogue: what follows it.
    """
    _set_class(module, _fused_classes()[ungated_class(module)])
    assert isinstance(module, fused_modules.Fused)
    module.epilogue = epilogue


def to_original_class(module: fused_modules.Fused) -> None:
    """Undo `to_fused_class`, in place. A gate that was attached or removed since is respected."""
    original = {after: before for before, after in _fused_classes().items()}
    cls = original[type(module)]
    del module.epilogue
    _set_class(module, gated_class(cls) if is_gated(module) else cls)


def _set_class(module: nn.Module, cls: type[nn.Module]) -> None:
    setattr(module, "__class__", cls)  # noqa: B010 - mypy refuses a plain assignment


def _fused_classes() -> dict[type[nn.Module], type[nn.Module]]:
    """{a module's class without its gate: the fused class}."""
    table: dict[type[nn.Module], type[nn.Module]] = {
        nn.BatchNorm1d: fused_modules.FusedBatchNorm1d,
        nn.BatchNorm2d: fused_modules.FusedBatchNorm2d,
        nn.BatchNorm3d: fused_modules.FusedBatchNorm3d,
        nn.SyncBatchNorm: fused_modules.FusedSyncBatchNorm,
        nn.Conv1d: fused_modules.FusedConv1d,
        nn.Conv2d: fused_modules.FusedConv2d,
        nn.Conv3d: fused_modules.FusedConv3d,
    }
    if classes := norm_act_classes():
        from accuracy_booster.fastpath import fused_timm_modules as fused_timm

        names = fused_timm.FusedBatchNormAct2d, fused_timm.FusedSyncBatchNormAct
        table |= dict(zip(classes, names, strict=True))
    return table
