"""The record of a network's gates: what a tool must keep to put the same gates on again.

A record says where the gates are and what they compute, as plain data for JSON and YAML. It holds
no weights: those are in the network's state dict. `ab.save` writes a record beside the weights; a
tool that builds a network from a configuration keeps one in the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.surgery.attaching import attach, attached, detach
from accuracy_booster.surgery.attention import Replaced, put_back_attention, replace_attention
from accuracy_booster.surgery.repairing import Model, refuse_lost_gates
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.wrappers import own_names, unwrapped


@dataclass(frozen=True)
class Record:
    """A record whose parts have been checked.

    Attributes:
        sites: each with the text of its block.
        recipes: {text of a block: its recipe}.
        replaced: the sites where an attention module was taken away.
    """

    sites: list[tuple[Site, str]]
    recipes: dict[str, Recipe]
    replaced: set[str]


def gate_record(model: nn.Module) -> dict[str, Any]:
    """Say where the gates of a network are and what they compute; changes nothing.

    Args:
        model: a boosted network. Wrappers around it (torch.compile, DDP) leave no trace.

    Returns:
        Plain data that JSON and YAML can hold, without weights, for `ab.rebuild_gates`.

    Raises:
        ValueError: if the model has no gates.
        RuntimeError: if the module of a gate was removed.
    """
    model = unwrapped(model)
    refuse_lost_gates(model)
    names = own_names(model)
    gates = {names[name]: gate for name, gate in attached(model).items()}
    if not gates:
        raise ValueError(f"{type(model).__name__} has no gates to record; boost it first")
    return {
        "recipes": {str(g.recipe): g.recipe.to_dict() for g in gates.values()},
        "sites": [_site_entry(name, gate) for name, gate in gates.items()],
        "replaced": [names[name] for name, m in model.named_modules() if isinstance(m, Replaced)],
    }


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
            attach(network, recipe, [site for site, used in record.sites if used == text])
    except (ValueError, AttributeError):
        take_off(network)
        raise


def take_off(network: nn.Module) -> None:
    """Undo `put_on`."""
    detach(network)
    put_back_attention(network)


def parse_record(record: Mapping[str, Any]) -> Record:
    """Check a record, without memory for its gates.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"a record of gates is a dict, not {type(record).__name__}")
    try:
        parsed = Record(
            sites=[_site(entry) for entry in record["sites"]],
            recipes={text: Recipe.from_dict(data) for text, data in record["recipes"].items()},
            replaced=set(record["replaced"]),
        )
        for site, text in parsed.sites:
            if type(site.channels) is not int or site.channels < 1:
                raise ValueError(f"site {site.name!r} has channels={site.channels!r}")
            empty_gate(site, parsed.recipes[text])
    except (LookupError, AttributeError, TypeError) as e:
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise ValueError(f"the record of gates is damaged: {reason}") from e
    return parsed


def empty_gate(site: Site, recipe: Recipe) -> Recalibrate:
    """The gate of a site on the meta device, which takes no memory and draws no random numbers."""
    with torch.device("meta"):
        return Recalibrate(
            site.channels, recipe, spatial_size=site.spatial_size, layout=site.layout
        )


def _site(entry: Mapping[str, Any]) -> tuple[Site, str]:
    size = tuple(int(side) for side in entry["spatial_size"])
    return Site(str(entry["name"]), entry["channels"], size, entry["layout"]), entry["recipe"]


def _site_entry(name: str, gate: Recalibrate) -> dict[str, Any]:
    return {
        "name": name,
        "channels": gate.channels,
        "spatial_size": list(gate.spatial_size or ()),
        "layout": gate.layout,
        "recipe": str(gate.recipe),
    }
