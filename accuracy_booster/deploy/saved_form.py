"""The form in which other libraries load a run's network: config.json, and the call that loads it.

timm builds a network from the architecture in config.json, its arguments, and how its images are
made. A network that timm has is saved under timm's name, one with gates under its boosted name, and
others under the name `accuracy_booster` (`integrations.timm_networks`). A network of the caller's
own code has no name; its config.json holds the record of its gates.
"""

# C channels, H W space

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster.deploy.public_settings import network_name
from accuracy_booster.errors import shortened
from accuracy_booster.integrations import timm as boosted_timm
from accuracy_booster.integrations.boosted_names import PREFIX, boosting
from accuracy_booster.integrations.timm_networks import NAME, layers_to_adapt
from accuracy_booster.models.heads import classifier
from accuracy_booster.models.own_networks import is_own
from accuracy_booster.models.registry import name_in_timm
from accuracy_booster.surgery import attached, gate_record
from accuracy_booster.surgery.configurations import KEY
from accuracy_booster.training.network_metadata import pretrained_cfg
from accuracy_booster.training.train_config import TrainConfig

# of timm's own config of a network: what holds for it whatever its weights are
OF_ARCHITECTURE = ("first_conv", "classifier", "pool_size", "fixed_input_size")
IMAGES = 2  # on which a saved network must give the run's outputs


class Loader(Enum):
    """Who builds a saved network again."""

    TIMM = "timm"  # alone
    REGISTERED = "registered"  # timm, after ab.integrations.timm.register()
    OWN_CODE = "own code"  # the caller's, and then the record of the gates


@dataclass(frozen=True)
class SavedForm:
    """How a network is saved.

    Attributes:
        loader: who builds it again.
        config: the content of config.json.
    """

    loader: Loader
    config: dict[str, Any]

    @property
    def architecture(self) -> str:
        """What timm calls the network."""
        return str(self.config["architecture"])

    def text(self) -> str:
        """The text of config.json, in ASCII."""
        return json.dumps(self.config, indent=2) + "\n"


def saved_form(network: nn.Module, config: TrainConfig, info: Mapping[str, Any]) -> SavedForm:
    """The form of a run's network, as `load_network` gives it.

    Boosted names are put into timm's registry where the form needs one.

    Args:
        info: what run.json holds.

    Raises:
        ValueError: if the form needs boosted names and timm is too old for them.
    """
    about = pretrained_cfg(config, info)
    classes = about.pop("label_names")
    whole = {
        "architecture": config.model,
        "num_classes": config.num_classes,
        "num_features": _features(network),
        "label_names": classes,
        "model_args": {"in_chans": config.input_size[0], "num_classes": config.num_classes},
        "pretrained_cfg": {
            **{k: v for k, v in about.items() if k != "architecture"},
            "custom_load": False,
        },
    }
    if is_own(config.model):
        return _of_own_code(network, config, whole)
    known = getattr(network, "pretrained_cfg", None) or {}
    name = name_in_timm(config.model)
    base = None if name is None else str(known.get("architecture") or name.partition(".")[0])
    whole["pretrained_cfg"] |= _of_architecture(network, known, config, theirs=base is not None)
    if base is not None and config.block == "none":
        return SavedForm(Loader.TIMM, {**whole, "architecture": base})
    boosted_timm.register()
    architecture = NAME
    if base is not None and _is_registered(f"{PREFIX}{base}"):
        architecture = f"{PREFIX}{base}"
    else:
        whole["model_args"] = {"network": config.model, **whole["model_args"]}
    whole["model_args"] |= _gates_as_arguments(network, config)
    return SavedForm(Loader.REGISTERED, {**whole, "architecture": architecture})


def check_loads(form: SavedForm, folder: Path, network: nn.Module, config: TrainConfig) -> None:
    """Load a saved network as its users will, and compare it with the run's bit for bit.

    Args:
        folder: holds config.json and model.safetensors.
        network: the run's own, in eval mode and contiguous.

    Raises:
        ValueError: if it has other tensors or gates, or gives other outputs.
    """
    if form.loader is Loader.OWN_CODE:
        return  # `load_network` has just built it so: the caller's network, gates, weights
    from timm.models import create_model

    try:
        loaded = create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (RuntimeError, ValueError, TypeError) as e:
        reason = shortened(" ".join(str(e).split()), 300)
        raise _other(form, f"it does not load: {reason}") from e
    images = torch.randn(IMAGES, *config.input_size)
    own, other = network.state_dict(), loaded.state_dict()
    texts = [{n: str(g.recipe) for n, g in attached(m).items()} for m in (network, loaded)]
    with torch.no_grad():
        same = (
            own.keys() == other.keys()
            and all(_equal(own[name], other[name]) for name in own)
            and texts[0] == texts[1]
            and _equal(network(images), loaded(images))
        )
    if not same:
        raise _other(form, "its tensors, gates or outputs differ")


def _other(form: SavedForm, reason: str) -> ValueError:
    return ValueError(
        f"timm's {form.architecture} with the run's weights is not the run's network ({reason}), "
        "so nothing was written; ab.load_run(RUN) gives the network, and ab.save(network, FILE, "
        "full=True) keeps it"
    )


def _of_own_code(network: nn.Module, config: TrainConfig, whole: dict[str, Any]) -> SavedForm:
    record = {KEY: gate_record(network)} if attached(network) else {}
    return SavedForm(Loader.OWN_CODE, {**whole, "architecture": network_name(config), **record})


def _of_architecture(
    network: nn.Module, known: Mapping[str, Any], config: TrainConfig, *, theirs: bool
) -> dict[str, Any]:
    """The entries of timm's config that say how weights fit other classes, channels and sizes."""
    if not theirs:
        return layers_to_adapt(network)
    found = {name: known.get(name) for name in OF_ARCHITECTURE}
    if tuple(known.get("input_size", ()))[1:] != config.input_size[1:]:
        # timm would build a network of a fixed size for the images' size, and the run's is not
        found |= {"pool_size": None, "fixed_input_size": False}
    return {**found, "fixed_input_size": bool(found["fixed_input_size"])}


def _gates_as_arguments(network: nn.Module, config: TrainConfig) -> dict[str, Any]:
    """The arguments with which a boosted name puts the run's gates on."""
    if config.block == "none":
        return {}
    needs_size = any(gate.recipe.needs_spatial_size for gate in attached(network).values())
    return boosting(
        NAME,
        None,
        block=config.block,
        init="identity" if config.init == "identity" else "paper",
        where=None if config.where == "residual" else config.where,
        skip=config.skip,
        input_size=config.input_size if needs_size else None,
    ).options


def _features(network: nn.Module) -> int:
    head = classifier(network)[1]
    found = getattr(network, "num_features", None)
    if isinstance(found, int):
        return found
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


def _is_registered(name: str) -> bool:
    import timm

    return timm.is_model(name)


def _equal(first: Any, second: Any) -> bool:
    """Whether two tensors, or outputs of several, are equal bit for bit; NaN is equal to NaN."""
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(_equal, first, second))
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)
