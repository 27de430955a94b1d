"""Warnings about what other tools do to gated modules: freeze them, or wrap them in adapters."""

from __future__ import annotations

import warnings

from torch import nn

from accuracy_booster.surgery.gate_holders import NORMS
from accuracy_booster.surgery.gated import gate_of, is_gated


def warn_of_frozen_gate(module: nn.Module) -> None:
    """Warn where a loop over the norms of a network freezes gates, which are children of norms."""
    gate = gate_of(module)
    if gate is None or not isinstance(module, NORMS):
        return
    if any(p.requires_grad for p in gate.parameters()):  # else its owner has frozen it by name
        warnings.warn(
            "a norm that holds a gate was frozen, and the gate with it: its statistics or "
            "parameters stay as they are; ab.freeze_norms(model) freezes the network's norms and "
            "lets the gates learn",
            stacklevel=3,
        )


def warn_of_adapter(name: str, old: nn.Module, new: nn.Module) -> None:
    """Warn where a wrapper adds weights of its own (LoRA) beside the gated module `old`."""
    own = {id(p) for p in old.parameters()}
    copies = sum(is_gated(module) for module in new.modules()) > 1
    if not copies and any(id(p) not in own for p in new.parameters()):
        warnings.warn(
            f"{type(new).__name__} wraps {name!r}, whose gate now acts inside it and not on what "
            "the wrapper adds; merging the wrapper later changes the output. Wrap first and boost "
            "afterwards",
            stacklevel=3,
        )
