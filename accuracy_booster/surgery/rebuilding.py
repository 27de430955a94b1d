"""Put the gates of a record on a network: `ab.rebuild_gates`, and what `ab.load` needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from accuracy_booster.surgery.attaching import attach_unnoted, detach_unnoted
from accuracy_booster.surgery.attention import put_back_attention, replace_attention
from accuracy_booster.surgery.configurations import note_gates_everywhere
from accuracy_booster.surgery.gate_records import Record, parse_record
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.repairing import Model
from accuracy_booster.surgery.wrappers import unwrapped


def rebuild_gates(model: Model, record: Mapping[str, Any]) -> Model:
    """Put the gates of a record on a network that a tool has built anew, in place.

    The gates start as their blocks say; load the state dict of the boosted network afterwards.

    Args:
        model: a network without gates, whose modules have the names that the record says.
        record: what `ab.gate_record` returned.

    Returns:
        The model.

    Raises:
        ValueError: if the record is damaged, or does not fit the network, which is then as it was.
    """
    network = unwrapped(model)
    parsed = parse_record(record)
    if attached(network):
        raise ValueError("the model has gates already; ab.unboost(model) takes them off")
    try:
        put_on(network, parsed)
    except (ValueError, AttributeError) as e:
        raise ValueError(f"the gates do not fit this {type(network).__name__}: {e}") from e
    return model


def put_on(network: nn.Module, record: Record) -> None:
    """Attach the gates of a record. A network that one does not fit stays as it was.

    Raises:
        ValueError, AttributeError: for the first site that does not fit or does not exist.
    """
    try:
        replace_attention(network, [s for s, _ in record.sites if s.name in record.replaced])
        for text, recipe in record.recipes.items():
            attach_unnoted(network, recipe, [site for site, used in record.sites if used == text])
    except (ValueError, AttributeError):
        take_off(network)
        raise
    note_gates_everywhere(network)


def take_off(network: nn.Module) -> None:
    """Undo `put_on`."""
    detach_unnoted(network)
    put_back_attention(network)
    note_gates_everywhere(network)
