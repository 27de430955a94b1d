"""Put gates on a network that a tool builds from a configuration which carries their record.

The trainer of ultralytics builds `DetectionModel(model.yaml)` and copies the weights into it,
transformers builds `Model(config)` and loads a file into it. torch calls a hook whenever a module
is registered, which tells of such a network while it is built. The gates are put on when its
constructor has ended, since constructors initialise modules by their exact classes. What the tool
loads afterwards finds them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from accuracy_booster.errors import unknown
from accuracy_booster.surgery.attaching import attach_unnoted
from accuracy_booster.surgery.attention import replace_attention
from accuracy_booster.surgery.configurations import KEY, configuration_of, note_gates, record_in
from accuracy_booster.surgery.constructors import after_construction, under_construction
from accuracy_booster.surgery.gate_records import Record, parse_record
from accuracy_booster.surgery.gated import applied_gate
from accuracy_booster.surgery.gating import follow_rebuilt_modules_with
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.sites import Site

# Which attribute of a layer says how many channels its output has.
CHANNELS = (
    (nn.modules.batchnorm._NormBase, "num_features"),
    (nn.modules.conv._ConvNd, "out_channels"),
    (nn.GroupNorm, "num_channels"),
    (nn.Linear, "out_features"),
)


def build_configured_gates(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """Have the network that is being built around `parent` get the gates of its configuration.

    torch calls this before `parent` registers `new`. The network is the outermost module under
    construction with this configuration: transformers gives the parts of a network the same one.

    Raises:
        ValueError: if a gate does not fit the new child of the network.
    """
    configuration = configuration_of(parent)
    if configuration is None or new is None:
        return
    record = record_in(configuration)
    if record is None:
        return
    network = None
    for module in under_construction():
        if configuration_of(module) is configuration:
            network = module
    if network is None:
        return
    if network is parent:
        check_child(network, name, new, record)
    after_construction(network, _is_built, finish_gates)


def check_child(network: nn.Module, name: str, child: nn.Module, record: Any) -> None:
    """Raise ValueError if a gate of the record does not fit the new child, by its name in it."""
    try:
        parsed = parse_record(record)
        sites = [s for s, _ in parsed.sites if f"{s.name}.".startswith(f"{name}.")]
        modules = dict(child.named_modules(prefix=name)) if sites else {}
        for site in sites:
            check_channels(modules, site, replaced=site.name in parsed.replaced)
    except ValueError as e:
        raise _refusal(network, e) from None


def finish_gates(network: nn.Module) -> None:
    """Put the gates of its configuration on a network whose constructor has ended.

    Raises:
        ValueError: if one of them does not fit the network.
    """
    repair(network)  # a part may have got its gates before, and had its norms rebuilt since
    configuration = configuration_of(network)
    if record_in(configuration) is None:
        return
    # the first who reads an attribute may do so in any of torch's contexts
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        try:
            _put_on(network, parse_record(record_in(configuration)))
        except (ValueError, AttributeError) as e:
            raise _refusal(network, e) from e
    note_gates(network)
    if not isinstance(configuration, dict):
        around = [m for m in under_construction() if configuration_of(m) is not None]
        if around:
            after_construction(around[-1], _is_built, finish_gates)


def _put_on(network: nn.Module, record: Record) -> None:
    modules = dict(network.named_modules())
    sites = [(site, own_site(network, modules, site), text) for site, text in record.sites]
    for site, own, _ in sites:
        check_channels(modules, own, replaced=site.name in record.replaced)
    # a part that has a configuration of its own may have its gates already
    sites = [entry for entry in sites if applied_gate(modules[entry[1].name]) is None]
    replace_attention(network, [own for site, own, _ in sites if site.name in record.replaced])
    for text, recipe in record.recipes.items():
        attach_unnoted(network, recipe, [own for _, own, used in sites if used == text])


def own_site(network: nn.Module, modules: Mapping[str, nn.Module], site: Site) -> Site:
    """A site of a record by its name in the network that is built.

    transformers builds a network, and the base network which is its child `base_model_prefix`, from
    the same configuration, and either of them alone. So the record of one names sites of the other.
    """
    prefix = getattr(type(network), "base_model_prefix", "")
    names = [site.name]
    if prefix:
        names += [site.name.removeprefix(f"{prefix}."), f"{prefix}.{site.name}"]
    return replace(site, name=next((name for name in names if name in modules), site.name))


def check_channels(modules: Mapping[str, nn.Module], site: Site, *, replaced: bool = False) -> None:
    """Raise ValueError unless the module of a site exists and gives as many channels.

    Args:
        modules: of the network, by name.
        site: a site.
        replaced: whether the gate takes the place of the module.
    """
    if site.name not in modules:
        raise unknown("module", site.name, modules)
    module, count = modules[site.name], site.channels
    for kinds, attribute in CHANNELS:
        if isinstance(module, kinds) and not replaced:
            count = getattr(module, attribute)
    if count != site.channels:
        raise ValueError(f"{site.name!r} has {count} channels and its gate {site.channels}")


def _is_built(module: nn.Module) -> bool:
    return all(other is not module for other in under_construction())


def _refusal(network: nn.Module, reason: Exception) -> ValueError:
    return ValueError(
        f"the configuration of this {type(network).__name__} carries gates (key {KEY!r}) that do "
        f"not fit it: {reason}; delete the key to build it without gates, and boost it anew"
    )


follow_rebuilt_modules_with(build_configured_gates)
