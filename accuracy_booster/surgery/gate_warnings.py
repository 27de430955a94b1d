"""Warnings about what other tools do to gated modules: freeze, wrap or remove them."""

from __future__ import annotations

import warnings

from torch import nn

from accuracy_booster.surgery.folded_norms import LAYERS, norm_in_layer
from accuracy_booster.surgery.gate_holders import NORMS
from accuracy_booster.surgery.gated import gate_of, is_gated, ungated_class


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


def warn_of_bias(module: nn.Module, value: object) -> None:
    """Warn where a gated layer that had no bias gets one, as by folding the norm after it."""
    had_none = isinstance(module, LAYERS) and module._parameters.get("bias", value) is None
    if had_none and isinstance(value, nn.Parameter) and is_gated(module):
        warnings.warn(
            f"a gated {ungated_class(module).__name__} without a bias got one; if a norm was "
            f"folded into it, its gate now acts after that norm and not before it: {_UNFOLDED}",
            stacklevel=3,
        )


def warn_of_folded_norm(name: str, old: nn.Module, parent: nn.Module, new: nn.Module) -> None:
    """Warn where a norm was folded into a gated layer, which is replaced by the result."""
    former = old._parameters.get("bias") if isinstance(old, LAYERS) else None
    if former is None and is_gated(new):  # a copy of the old one: `warn_of_bias` has told
        return
    norm = norm_in_layer(new, former, parent) if isinstance(old, LAYERS) else None
    if norm is not None:
        warnings.warn(
            f"the norm {norm!r} was folded into {name!r} in {type(parent).__name__}, whose gate "
            f"now acts after that norm and not before it: {_UNFOLDED}",
            stacklevel=4,
        )


_UNFOLDED = "the outputs differ; leave this norm as it is, or boost the norm in place of the layer"


def warn_of_replaced_container(
    name: str, lost: list[str], parent: nn.Module, new: nn.Module | None
) -> None:
    """Warn where gates go away with a container that another module replaces."""
    warnings.warn(
        f"{name!r} in {type(parent).__name__}, which held {_listed(lost)}, was replaced by "
        f"{'nothing' if new is None else type(new).__name__}: {_REMEDY}",
        stacklevel=5,
    )


def warn_of_other_layer(name: str, parent: nn.Module, new: nn.Module) -> None:
    """Warn where a gate acts on a layer that computes something else than what was before it."""
    warnings.warn(
        f"{name!r} in {type(parent).__name__} was replaced by a {type(new).__name__}, which has "
        "its gate now and is not the former layer and norm in one; if other branches were folded "
        f"into it, the gate acts on them too: {_REMEDY}",
        stacklevel=5,
    )


def warn_of_lost_gates(names: list[str], network: nn.Module) -> None:
    """Warn where gates have gone with containers that were removed."""
    warnings.warn(
        f"{type(network).__name__} has lost {_listed(names)}: what held it was removed after "
        f"boosting; {_REMEDY}",
        stacklevel=4,
    )


_REMEDY = (
    "if it was not meant to go, change the network first and boost it afterwards (ab.unboost takes "
    "the gates off), or give the tool that changes it ab.materialize(model)"
)


def _listed(names: list[str]) -> str:
    """Gates in words: the first name, and how many others there are."""
    gate = f"the gate at {names[0]!r}" if names[0] else "a gate"
    return f"{gate} and {len(names) - 1} more" if len(names) > 1 else gate
