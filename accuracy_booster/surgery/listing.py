"""List the gates of a network; changes nothing."""

from __future__ import annotations

from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.surgery.gated import applied_gate
from accuracy_booster.surgery.kept_gates import missing_gates


def attached(model: nn.Module) -> dict[str, Recalibrate]:
    """{qualified name of a gated module: its gate}; changes nothing.

    A gate whose module was rebuilt, and which `ab.repair` or the next pass puts back, is listed
    too. A gate that several modules share is listed once.

    Raises:
        ValueError: if it is no module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    gates: dict[str, Recalibrate] = {}
    waiting: dict[str, Recalibrate] = {}
    for name, module in model.named_modules():
        for kept, path in missing_gates(module):
            if path is not None:
                waiting[f"{name}.{path}" if name else path] = kept.gate
        gate = applied_gate(module) or waiting.get(name)
        if gate is not None:
            gates[name] = gate
    first: dict[int, str] = {}
    for name, gate in gates.items():
        first.setdefault(id(gate), name)
    return {name: gate for name, gate in gates.items() if first[id(gate)] == name}
