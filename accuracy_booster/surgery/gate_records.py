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
from accuracy_booster.surgery.attention import Replaced
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.repairing import refuse_lost_gates
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


def parse_record(record: Mapping[str, Any]) -> Record:
    """Check a record, without memory for its gates.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"a record of gates is a dict, not {type(record).__name__}")
    if missing := [key for key in ("sites", "recipes", "replaced") if key not in record]:
        raise ValueError(
            f"this dict has no {missing[0]!r}, so it is no record of gates; give what "
            "ab.gate_record(model) returned, and not a state dict or a checkpoint"
        )
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
