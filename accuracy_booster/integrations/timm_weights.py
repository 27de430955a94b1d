"""Weights for a boosted network of timm: those of its base, or those with gates of its own.

timm loads weights while it builds the base, before there are gates. If a file holds gates too, the
base gets its part of the file in timm's way, with its head and first convolution adapted, and the
gates get theirs after boosting, completely or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from accuracy_booster.errors import shown
from accuracy_booster.surgery.gated import is_of_gate

SOURCES = ("file", "url", "hf_hub_id", "hf_hub_filename", "source")


@dataclass(frozen=True)
class GateWeights:
    """What a file with gates is split into.

    Attributes:
        gates: the state dict of the gates.
        config_of_base: timm's config with the base's state dict in it.
        source: where timm's config said that the weights are.
    """

    gates: dict[str, torch.Tensor]
    config_of_base: Any
    source: dict[str, Any]

    def load(self, model: nn.Module, name: str, *, whole: bool) -> None:
        """Load the gates of the file into a boosted network.

        Args:
            model: the network.
            name: its name, for errors.
            whole: False for a feature extractor, which has only a part of the network.

        Raises:
            ValueError: unless the file has exactly the weights that the network's gates need.
        """
        own = {_plain(key): key for key in model.state_dict() if is_of_gate(key)}
        given = {_plain(key): key for key in self.gates}
        found = {own[key]: self.gates[given[key]] for key in own.keys() & given.keys()}
        needed = model.state_dict()
        faults = {
            "lacks": [own[key] for key in own.keys() - given.keys()],
            "also has": [given[key] for key in given.keys() - own.keys()] if whole else [],
            "has another shape of": [k for k, v in found.items() if v.shape != needed[k].shape],
        }
        for fault, keys in faults.items():
            if keys:
                raise ValueError(
                    f"{name}: the weights are of a network with other gates: the file {fault} "
                    f"{shown(min(keys))} and {len(keys) - 1} more; give the block=, where= and "
                    "skip= with which it was trained"
                )
        model.load_state_dict(found, strict=False)

    def with_replaced(self, fresh: dict[str, torch.Tensor], replaced: list[str]) -> GateWeights:
        """The same, with weights for attention modules that the boosted network does not have.

        Args:
            fresh: a state dict of the base, whose attention modules will be taken away.
            replaced: their names.
        """
        of_base = dict(self.config_of_base.state_dict)
        for key, value in fresh.items():
            if any(key.startswith(f"{name}.") for name in replaced):
                of_base.setdefault(key, value)
        return replace(self, config_of_base=replace(self.config_of_base, state_dict=of_base))


def gates_in_weights(
    base: str, config: Any, overlay: dict[str, Any] | None, cache_dir: Any
) -> GateWeights | None:
    """Split the weights that timm would load if they are of a boosted network; else None."""
    from timm.models import load_pretrained, resolve_pretrained_cfg

    resolved = resolve_pretrained_cfg(base, config, overlay)
    given = not (config is None or isinstance(config, str)) or bool(
        {*SOURCES, "state_dict"} & (overlay or {}).keys()
    )
    if not given or resolved.custom_load or not (resolved.has_weights or resolved.state_dict):
        return None  # timm's own weights, or none, which timm tells
    try:
        load_pretrained(nn.Module(), resolved.to_dict(), filter_fn=_catch, cache_dir=cache_dir)
    except _Caught as caught:
        state = caught.state
    gates = {key: value for key, value in state.items() if is_of_gate(key)}
    if not gates:
        return None
    of_base = {key: value for key, value in state.items() if key not in gates}
    nowhere: dict[str, Any] = dict.fromkeys(SOURCES)
    return GateWeights(
        gates,
        replace(resolved, **nowhere, state_dict=of_base),
        {key: value for key in SOURCES if (value := getattr(resolved, key)) is not None},
    )


def _plain(key: str) -> str:
    """A key as it is in the whole network: feature extractors write layer1_0 for layer1.0."""
    plain = key.replace(".", "_")
    for wrapper in ("body_", "model_", "graph_module_"):  # that feature extractors put around it
        plain = plain.removeprefix(wrapper)
    return plain


class _Caught(Exception):
    def __init__(self, state: dict[str, Any]):
        self.state = state


def _catch(state: dict[str, Any], model: nn.Module) -> None:
    raise _Caught(state)
