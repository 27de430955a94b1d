"""Put gates on a network while a tool builds it from a configuration that carries their record.

The trainer of ultralytics builds `DetectionModel(model.yaml)` and copies the weights into it,
transformers builds `Model(config)` and loads a file into it. torch calls a hook whenever a module
is registered. So when the constructor registers a child, the gates of the record go onto it, and
what the tool loads afterwards finds them there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from accuracy_booster.errors import unknown
from accuracy_booster.surgery.attaching import attach_unnoted
from accuracy_booster.surgery.attention import replace_attention
from accuracy_booster.surgery.configurations import (
    KEY,
    configuration_of,
    note_gates_inside,
    record_in,
)
from accuracy_booster.surgery.gate_records import Record, parse_record
from accuracy_booster.surgery.gated import applied_gate
from accuracy_booster.surgery.gating import follow_rebuilt_modules_with
from accuracy_booster.surgery.sites import Site

# How many channels a module gives: the first of these attributes that it has.
CHANNELS = ("num_features", "out_channels", "num_channels", "out_features")


def build_configured_gates(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """Put the gates that `parent`'s configuration names at and below `name` on its new child.

    Raises:
        ValueError: if a gate does not fit what is built.
    """
    configuration = configuration_of(parent)
    if configuration is None or new is None or parent._modules.get(name) is not None:
        return
    record = record_in(configuration)
    if record is None:
        return
    try:
        put_on_child(parent, name, new, parse_record(record))
    except (ValueError, AttributeError) as e:
        raise ValueError(
            f"the configuration of this {type(parent).__name__} carries gates (key {KEY!r}) that "
            f"do not fit it: {e}; delete the key to build it without gates, and boost it anew"
        ) from e
    note_gates_inside(new, configuration)


def put_on_child(parent: nn.Module, name: str, child: nn.Module, record: Record) -> None:
    """Attach the gates of a record that belong at and below the child `name`, still unregistered.

    Raises:
        ValueError, AttributeError: for the first that does not fit or does not exist.
    """
    sites = [(s, text) for s, text in sites_under(parent, name, record)]
    if not sites:
        return
    parent._modules[name] = child  # names and owners of gates are those that the parent sees
    try:
        modules = dict(parent.named_modules())
        for site, _ in sites:
            check_channels(modules, site)
        missing = [(s, text) for s, text in sites if applied_gate(modules[s.name]) is None]
        replace_attention(parent, [s for s, _ in missing if s.name in record.replaced])
        for text, recipe in record.recipes.items():
            attach_unnoted(parent, recipe, [s for s, used in missing if used == text])
    finally:
        del parent._modules[name]


def sites_under(parent: nn.Module, name: str, record: Record) -> list[tuple[Site, str]]:
    """The sites at and below a child, by their names in the parent, with their blocks' texts.

    transformers builds a network and the base network in it, its child `base_model_prefix`, from
    the same configuration. So the record of the one names sites of the other.
    """
    prefix = f"{getattr(type(parent), 'base_model_prefix', '') or ' '}."
    found = []
    for site, text in record.sites:
        for own in (site.name, site.name.removeprefix(prefix)):
            if f"{own}.".startswith(f"{name}."):
                found.append((replace(site, name=own), text))
                break
    return found


def check_channels(modules: dict[str, nn.Module], site: Site) -> None:
    """Raise ValueError unless the module of a site exists and gives as many channels."""
    if site.name not in modules:
        raise unknown("module", site.name, modules)
    counts = [getattr(modules[site.name], key, None) for key in CHANNELS]
    count: Any = next((c for c in counts if isinstance(c, int)), site.channels)
    if count != site.channels:
        raise ValueError(f"{site.name!r} has {count} channels and its gate {site.channels}")


follow_rebuilt_modules_with(build_configured_gates)
