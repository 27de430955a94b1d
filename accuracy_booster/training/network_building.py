"""Build the classification network that a configuration names, or that the caller gives."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from accuracy_booster.blocks import TABLE, Recipe, recipe
from accuracy_booster.errors import shown
from accuracy_booster.models import builder, create_model
from accuracy_booster.models.own_networks import fit_head, is_own, note_frozen
from accuracy_booster.models.registry import check_pretrained
from accuracy_booster.progress import note
from accuracy_booster.surgery import attached, boost
from accuracy_booster.surgery.fingerprints import base_tensors, structure
from accuracy_booster.surgery.skipping import Skip
from accuracy_booster.surgery.where import Where
from accuracy_booster.training.own_objects import NOTHING, OwnObjects
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.train_config import TrainConfig


def check_network_and_block(config: RunConfig, own: OwnObjects = NOTHING) -> None:
    """Raise ValueError for an unknown network or a wrong block, before any data are read."""
    if own.network is None:
        refuse_absent(config.network)
        builder(config.network)
        if config.pretrained:
            check_pretrained(config.network)
    elif config.pretrained:
        raise ValueError(
            "pretrained=True is for a network's name; a network of your own has the weights that "
            "it comes with, or those of weights=FILE"
        )
    if config.block != "none":
        recipe(config.block)


def refuse_absent(name: str, where: Any = None) -> None:
    """Raise ValueError if the name is that of a network which the caller must give again.

    Args:
        where: the run's directory, for the message.
    """
    if not is_own(name):
        return
    what = "the network" if where is None else f"the run in {where}"
    path = name if ":" in name else "package.module:function"
    raise ValueError(
        f"{what} is of your own code ({name}), and code is never imported merely because a "
        f"run's file names it; give the network again: model=... in Python, --model {path} on the "
        "command line"
    )


def check_given(run: Run, config: TrainConfig, own: OwnObjects) -> None:
    """Raise ValueError if a run's network is the caller's and not given, or the other way round."""
    if own.network is None:
        refuse_absent(config.model, run.path)
    elif not is_own(config.model):
        raise ValueError(
            f"the run in {run.path} is of {config.model}, which its name makes; leave out model"
        )


def build_network(
    config: TrainConfig,
    own: OwnObjects = NOTHING,
    *,
    pretrained: bool = False,
    where: Where | None = None,
    say: bool = False,
    run: Run | None = None,
) -> nn.Module:
    """The network of a completed configuration, in its memory format, fresh or pretrained.

    Args:
        own: holds the network if the configuration does not name it.
        where: other sites for its gates than those of the configuration, as for `ab.boost`.
        say: print a line on what is changed at a network of the caller's.
        run: whose weights come next, so nothing is said of those that the network has now.
    """
    init = "identity" if config.block != "none" and config.init == "identity" else "paper"
    skip = config.skip if where is None else None
    where = config.where if where is None else where
    if own.network is None:
        refuse_absent(config.model)
    with _quiet_on_weights_to_come(run is not None or _will_load(config, pretrained)):
        if own.network is not None:
            network = _build_own(config, own, where, skip, init, say, run)
        else:
            network = create_model(
                config.model,
                block=config.block,
                init=init,
                where=where,
                skip=skip,
                pretrained=pretrained,
                num_classes=config.num_classes or 0,
                in_chans=config.input_size[0],
                input_size=config.input_size,
            )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return network.to(memory_format=layout)


def _will_load(config: TrainConfig, pretrained: bool) -> bool:
    """Whether other weights take the place of those that the network is built with."""
    return config.weights is not None or config.pretrained != pretrained


@contextmanager
def _quiet_on_weights_to_come(will_load: bool) -> Iterator[None]:
    """Within it, no warning of norms with zero weights, if trained weights will replace them."""
    with warnings.catch_warnings():
        if will_load:
            warnings.filterwarnings("ignore", r"\d+ of \d+ branches end in a norm whose weight is")
        yield


def _build_own(
    config: TrainConfig,
    own: OwnObjects,
    where: Where,
    skip: Skip,
    init: str,
    say: bool,
    run: Run | None,
) -> nn.Module:
    assert own.network is not None
    network = own.network(config.num_classes, config.in_chans)
    own.network.check_channels(network, config.input_size[0])
    line = fit_head(network, config.num_classes or 0, config.input_size)
    if say:
        if line:
            note(line)
        note_frozen(network)
    if attached(network):
        _check_gates(network, config, init)
    elif config.block != "none":
        example = torch.zeros(1, *config.input_size)
        try:
            boost(network, config.block, example=example, where=where, skip=skip, init=init)
        except ValueError:
            if run is not None:  # another network may have no such sites: that is what is wrong
                check_description(network, run.info.get("network"), run.path)
            raise
    return network


def _check_gates(network: nn.Module, config: TrainConfig, init: str) -> None:
    """Raise ValueError if the gates that a network came with are not those of the configuration."""
    gates = set(_recipes(network))
    wanted = None if config.block == "none" else recipe(config.block)
    if wanted is not None and init == "identity":
        wanted = wanted.as_identity()
    if gates != {wanted}:
        raise ValueError(
            f"the network given has gates of {shown(', '.join(sorted(map(str, gates))))}, and the "
            f"run has block={config.block!r}, init={init!r}; give it without gates (ab.unboost), "
            "or with these"
        )


def _recipes(network: nn.Module) -> list[Recipe]:
    return [gate.recipe for gate in attached(network).values()]


def with_own_gates(
    config: TrainConfig, own: OwnObjects, num_classes: int, in_chans: int
) -> TrainConfig:
    """The configuration with the block and `init` of the gates that a given network has already.

    They stay as they are, and a line says so. A network without gates changes nothing.

    Raises:
        ValueError: for gates of several blocks, which a configuration cannot name.
    """
    if own.network is None:
        return config
    with torch.random.fork_rng(devices=[]):
        network = own.network.module or own.network(num_classes, in_chans)
    own.network.check_channels(network, in_chans)
    found = _recipes(network)
    if not found:
        return config
    if len(set(found)) > 1:
        names = ", ".join(sorted({str(one) for one in found}))
        raise ValueError(
            f"the network has gates of several blocks ({shown(names)}), and a run has one; give "
            "the network with gates of one block, or without (ab.unboost)"
        )
    block, init = _named(found[0])
    other = "" if config.block in (block, "none") else f", and block={config.block} adds none"
    note(f"the network's own {len(found)} gates of {block} stay{other}")
    return config.change({"block": block, "init": init})


def check_has_no_gates(own: OwnObjects) -> None:
    """Raise ValueError if a network that is to be compared with several blocks has gates."""
    module = None if own.network is None else own.network.module
    if module is not None and attached(module):
        raise ValueError(
            "the network has gates already, and a comparison attaches those of each block; give it "
            "without gates (ab.unboost)"
        )


def _named(found: Recipe) -> tuple[str, str]:
    """The block and the `init` that give a recipe: by the block's name where it has one."""
    for name in TABLE:
        known = recipe(name)
        if known == found:
            return name, "paper"
        try:
            if known.as_identity() == found:
                return name, "identity"
        except ValueError:  # a block without parameters has no identity
            continue
    return str(found), "paper"  # the text holds the scale


def description_of(network: nn.Module) -> dict[str, Any]:
    """What a run stores of a network of the caller's, so that another one is told apart.

    `structure` is a hash of the names and shapes of its tensors without gates.
    """
    return {
        "class": f"{type(network).__module__}.{type(network).__qualname__}",
        "structure": structure(network),
        "tensors": len(base_tensors(network)),
    }


def check_description(network: nn.Module, known: Any, where: Any) -> None:
    """Raise ValueError if a network is not the one that a run in `where` stored."""
    now = description_of(network)
    if isinstance(known, dict) and known.get("structure") not in (None, now["structure"]):
        raise ValueError(
            f"the network given ({now['class']}, {now['tensors']} tensors) is not the one of the "
            f"run in {where} ({known.get('class')}, {known.get('tensors')} tensors): their tensors "
            "have other names or shapes; give the network that the run was trained with"
        )
