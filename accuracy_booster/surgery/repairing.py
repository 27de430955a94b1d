"""Put gates back on modules that other tools have rebuilt, and check that none is lost."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from accuracy_booster.surgery.gate_owners import before_pass, lost_gate, repair_owner
from accuracy_booster.surgery.gate_warnings import warn_of_lost_gates
from accuracy_booster.surgery.kept_gates import KEPT, KeptGate, missing_gates
from accuracy_booster.surgery.network_gates import lost_gates, renew_owners

# files that `torch.save(model)` wrote name these here
__all__ = ["KeptGate", "Model", "before_pass", "refuse_lost_gates", "repair"]

Model = TypeVar("Model", bound=nn.Module)


def repair(model: Model) -> Model:
    """Put gates back on modules that other tools have rebuilt since boosting, in place.

    The next pass does so too, but until then `model.parameters()` and `model.state_dict()` lack the
    gates that a tool dropped. Call it after tools that rebuild norms, before making an optimizer. A
    warning names gates that went away with the containers around them.

    Returns:
        The model.

    Raises:
        RuntimeError: if the module of a gate was removed.
    """
    for module in list(model.modules()):
        renew_owners(module)
    for module in list(model.modules()):
        if KEPT in module.__dict__:
            repair_owner(module)
    return model


def refuse_lost_gates(model: nn.Module) -> None:
    """Check that each gate of a network is in it, or that `repair` would put it back.

    A warning names gates that went away with the containers around them.

    Raises:
        RuntimeError: if the module of a gate was removed.
    """
    for owner in model.modules():
        for kept, path in missing_gates(owner):
            if path is None:
                raise lost_gate(owner, kept)
        if names := lost_gates(owner):
            warn_of_lost_gates(names, owner)
