"""Put gates on a network that a tool builds from a configuration which carries their record.

The trainer of ultralytics builds `DetectionModel(model.yaml)` and copies the weights into it,
transformers builds `Model(config)` and loads a file into it. torch calls a hook whenever a module
is registered, which tells of such a network while it is built. The gates are put on when its
constructor has ended, since constructors initialise modules by their exact classes. What the tool
loads afterwards finds them there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from accuracy_booster.errors import unknown
from accuracy_booster.surgery.attaching import attach_unnoted
from accuracy_booster.surgery.attention import replace_attention
from accuracy_booster.surgery.configurations import KEY, configuration_of, note_gates, record_in
from accuracy_booster.surgery.constructors import after_construction, is_waiting, under_construction
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
        ValueError: if a gate does not fit the new child.
    """
    configuration = configuration_of(parent)
    if configuration is None or new is None:
        return
    if record_in(configuration) is None:
        return
    network = None
    for module in under_construction():
        if configuration_of(module) is configuration:
            network = module
    if network is None:
        if parent._modules.get(name) is None:
            _warn_of_late_child(parent, name, new)
    elif is_waiting(network) or not _wraps_network(network, new, configuration):
        after_construction(network, _is_built, finish_gates)
        if network is parent:
            check_child(network, name, new)


def check_child(network: nn.Module, name: str, child: nn.Module) -> None:
    """Raise ValueError if a gate does not fit the new child, by its name in the network."""
    configuration = configuration_of(network)
    try:
        record = parse_record(record_in(configuration))
        sites = sites_under(name, record)
        modules = dict(child.named_modules(prefix=name)) if sites else {}
        if any(configuration_of(module) is configuration for module in modules.values()):
            return  # the names in the record may be those in a part
        for site in sites:
            check_channels(modules, site, replaced=site.name in record.replaced)
    except ValueError as e:
        raise _refusal(network, e) from None


def sites_under(name: str, record: Record) -> list[Site]:
    """The sites of a record at and below a name."""
    return [site for site, _ in record.sites if f"{site.name}.".startswith(f"{name}.")]


def _wraps_network(parent: nn.Module, new: nn.Module, configuration: Any) -> bool:
    """Whether a module under construction has its configuration from a network that it is given.

    The parts that it builds itself from the configuration are known: it waits for its gates then.
    """
    inside = [module for child in (*parent.children(), new) for module in child.modules()]
    return any(configuration_of(module) is configuration for module in inside)


def _warn_of_late_child(network: nn.Module, name: str, child: nn.Module) -> None:
    """Warn if the configuration names gates in a child that no constructor registers."""
    configuration = configuration_of(network)
    sites = sites_under(name, parse_record(record_in(configuration)))
    modules = dict(child.named_modules(prefix=name)) if sites else {}
    if any(configuration_of(module) is configuration for module in modules.values()):
        return
    lacking = [s for s in sites if s.name not in modules or applied_gate(modules[s.name]) is None]
    if lacking:
        warnings.warn(
            f"{name!r} was put into this {type(network).__name__} without the {len(lacking)} gates "
            f"in it that the network's configuration names (key {KEY!r}); put them on with "
            "ab.rebuild_gates, or take the key out of the configuration",
            stacklevel=5,
        )


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
            if not _put_on(network, parse_record(record_in(configuration))):
                return
        except (ValueError, AttributeError) as e:
            raise _refusal(network, e) from e
    note_gates(network)
    if not isinstance(configuration, dict):
        around = [m for m in under_construction() if configuration_of(m) is not None]
        if around:
            after_construction(around[-1], _is_built, finish_gates)


def _put_on(network: nn.Module, record: Record) -> bool:
    """Put on those gates of a record that are not there, and say whether there were any."""
    modules = dict(network.named_modules())
    own = own_names(network, modules, [site.name for site, _ in record.sites])
    sites = []
    for site, text in record.sites:
        taken = site.name in record.replaced
        here = replace(site, name=own[site.name])
        check_channels(modules, here, replaced=taken)
        # a part that has a configuration of its own may have its gates already
        if applied_gate(modules[here.name]) is None:
            sites.append((here, text, taken))
    replace_attention(network, [site for site, _, taken in sites if taken])
    for text, recipe in record.recipes.items():
        attach_unnoted(network, recipe, [site for site, used, _ in sites if used == text])
    return bool(sites)


def own_names(
    network: nn.Module, modules: Mapping[str, nn.Module], names: list[str]
) -> dict[str, str]:
    """{name of a site in a record: its name in the network that is built}.

    transformers builds a network, and the base network in it, from the same configuration, and
    either of them alone. A user's wrapper may have the configuration of what it wraps. So the
    record may be of a module in the network, or of one around it.
    """
    configuration = configuration_of(network)
    inside = [n for n, m in modules.items() if n and configuration_of(m) is configuration]
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    for cut in range(shared + 1):
        for before in ["", *(f"{name}." for name in inside)]:
            own = {n: before + ".".join(p[cut:]) for n, p in zip(names, parts, strict=True)}
            if all(name in modules for name in own.values()):
                return own
    return dict(zip(names, names, strict=True))


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
