"""How a new run starts: from which weights, and with which initialisation of its gates."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from accuracy_booster.blocks import Recipe, recipe
from accuracy_booster.models import builder, classifier
from accuracy_booster.models.heads import heads, outputs_of
from accuracy_booster.models.own_networks import OwnNetwork
from accuracy_booster.models.weight_files import read_weights
from accuracy_booster.models.weights import GATES, Loaded, load_weights, match_weights
from accuracy_booster.progress import note
from accuracy_booster.surgery.saved_files import read_save
from accuracy_booster.training.run_config import Config, RunConfig
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import WEIGHTS
from accuracy_booster.training.train_config import TrainConfig

Kinds = Sequence[type[RunConfig]]  # the configurations of the tasks that a run may be of


def decide_start(
    config: Config,
    kinds: Kinds = (TrainConfig,),
    *,
    trained: bool = False,
    say: Callable[[str], None] = note,
) -> Config:
    """The configuration with `init` decided, and `weights` as an absolute path.

    A line is printed where the gates do not start as in the paper, or trained weights get gates
    that cannot start as the identity.

    Args:
        kinds: what a run that `weights` names may be of.
        trained: the network comes with trained weights, as a module that the caller gives does.
        say: prints the line.

    Raises:
        ValueError: for weights that cannot be read, or gates that started in another way.
    """
    gates = False
    if config.weights is not None:
        place = os.path.abspath(Path(config.weights).expanduser())
        config = config.change({"weights": place})
        found = run_of(place, kinds)
        tensors = read_weights(place) if found is None else found[0].weights()
        gates = any(GATES in f".{name}" for name in tensors)
    if config.block == "none":
        return config.change({"init": "paper"}) if config.init == "auto" else config
    if gates:
        return _as_loaded_gates(config, kinds, say)
    # where gates take the place of attention modules, the network cannot stay what it was
    replaced = getattr(config, "where", "residual") == "attention"
    trained = (trained or bool(config.pretrained or config.weights)) and not replaced
    init = start_of_gates(config.init, config.block, trained)
    if config.init == "auto" and trained:
        say(
            "init=identity: the gates start by changing nothing, since the weights are trained"
            if init == "identity"
            else f"init=paper: {config.block!r} has no parameters that could start it as the "
            "identity, so the network starts from other outputs than its trained weights give"
        )
    return config.change({"init": init})


def start_of_gates(init: str, block: str | Recipe, trained: bool) -> str:
    """How new gates start: "paper" or "identity".

    "auto" means the identity on trained weights, if the block can start as the identity.
    """
    if init != "auto" or not trained:
        return "paper" if init == "auto" else init
    try:
        recipe(block).as_identity()
    except ValueError:
        return "paper"
    return "identity"


def _as_loaded_gates(config: Config, kinds: Kinds, say: Callable[[str], None]) -> Config:
    """The configuration with the `init` that the gates in its weights were trained with.

    `init` also decides the gates' scale: p = scale * sigmoid(...), 1 for paper and 2 for identity.
    With the other scale, trained gates would give other outputs.
    """
    known = _init_of(Path(str(config.weights)), kinds)
    if config.init == "auto":
        how = "" if known else ", taken as paper's, which the file does not say"
        say(f"init={known or 'paper'}: the gates are those of {config.weights}{how}")
        return config.change({"init": known or "paper"})
    if known not in (None, config.init):
        raise ValueError(
            f"init={config.init!r}, but the gates of {config.weights} started with init={known!r} "
            "and give other outputs otherwise; leave init out"
        )
    return config


def run_of(weights: str, kinds: Kinds = (TrainConfig,)) -> tuple[Run, Any] | None:
    """The finished run that `weights` name, and its configuration; None for any other path.

    Args:
        weights: a run's directory, or the model.safetensors in it.
        kinds: what the run may be of.
    """
    path = Path(weights).expanduser()
    for kind in kinds:
        with contextlib.suppress(ValueError):
            return Run.open(path.parent if path.name == WEIGHTS else path, kind=kind)
    return None


def _init_of(weights: Path, kinds: Kinds) -> str | None:
    """The `init` of the gates of a run, or of what `ab.save` wrote; None where it is not known."""
    if (found := run_of(str(weights), kinds)) is not None:
        return "identity" if found[1].init == "identity" else "paper"
    folder = weights if weights.is_dir() else weights.parent
    try:
        info, _ = read_save(folder)
        ends = [gate["weigh"][-1] for r in info["recipes"].values() for gate in r["gates"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return "identity" if any(end.get("scale") == 2 for end in ends) else "paper"


def start_from_weights(network: nn.Module, config: TrainConfig) -> str:
    """Load `config.weights` into a fresh network, in place; returns a line on what was loaded.

    Raises:
        ValueError: for weights of another network.
    """
    source = str(config.weights)
    try:
        loaded = load_weights(network, read_weights(source), source)
    except ValueError as e:
        raise ValueError(f"{e}{_other_gates(config)}") from e
    return f"starting from {source}: {', '.join(told(loaded))}"


def _other_gates(config: TrainConfig) -> str:
    """How the gates of the run that `weights` names differ from the configuration's, or ""."""
    found = run_of(str(config.weights))
    names = [
        name
        for name in ("block", "where", "skip")
        if found is not None and getattr(found[1], name) != getattr(config, name)
    ]
    if found is None or not names:
        return ""
    given = ", ".join(f"{name}={getattr(found[1], name)!r}" for name in names)
    return f": that run has {given}"


def told(loaded: Loaded) -> Iterator[str]:
    """Words on what was loaded, and on what stays as it was initialised."""
    yield f"{loaded.tensors} tensors"
    if head := [name for name in loaded.new if GATES not in f".{name}"]:
        yield f"a new head ({', '.join(head)})"
    if loaded.adapted:
        yield f"{loaded.adapted} adapted to the images' channels, as timm does it"
    if len(head) < len(loaded.new):
        yield "new gates"
    if loaded.unused:
        yield f"{loaded.unused} tensors of the file are not of this network"


def keeps_head(
    network: nn.Module,
    config: TrainConfig,
    classes: Sequence[str],
    own: OwnNetwork | None = None,
) -> bool:
    """Whether the network's head comes with trained weights for these classes.

    The head of a run is for classes of these names. Of a file, and of a module that the caller
    gives (`own`), only the number of classes is known.
    """
    if config.weights is not None:
        source = str(config.weights)
        found = run_of(source)
        if found is not None and found[0].info["classes"] != list(classes):
            return False
        new = match_weights(network, read_weights(source), source)[1].new
        outer = {f"{name}.{part}" for name in heads(network) for part in ("weight", "bias")}
        return not outer & set(new)
    if own is not None:
        given = own.module
        return given is not None and outputs_of(classifier(given)[1]) == config.num_classes
    if not config.pretrained:
        return False
    named = builder(config.model)(pretrained=False, num_classes=None, in_chans=config.in_chans)
    return outputs_of(classifier(named)[1]) == config.num_classes
