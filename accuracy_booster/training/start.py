"""How a new run starts: from random weights, trained ones or a file, and how its gates start."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from accuracy_booster.blocks import recipe
from accuracy_booster.models.heads import heads
from accuracy_booster.models.weights import GATES, load_weights, read_weights
from accuracy_booster.progress import note
from accuracy_booster.training.config import TrainConfig
from accuracy_booster.training.run import Run


def decide_start(config: TrainConfig) -> TrainConfig:
    """The configuration with `init` decided; where it is not the usual, one line says how.

    Raises:
        ValueError: for weights that cannot be read.
    """
    gates = False
    if config.weights is not None:
        config = config.change({"weights": str(Path(config.weights).absolute())})
        gates = any(GATES in f".{name}" for name in read_weights(str(config.weights)))
    if config.init != "auto":
        return config
    if config.block == "none" or not (config.pretrained or config.weights):
        return config.change({"init": "paper"})
    if gates:
        how = _init_of(str(config.weights))
        note(f"init={how}: the gates are those of {config.weights}")
        return config.change({"init": how})
    try:
        recipe(config.block).as_identity()
    except ValueError:
        note(
            f"init=paper: {config.block!r} has no parameters that could start it as the identity, "
            "so the network starts from other outputs than its trained weights give"
        )
        return config.change({"init": "paper"})
    note("init=identity: the gates start by changing nothing, since the weights are trained")
    return config.change({"init": "identity"})


def _init_of(weights: str) -> str:
    """How the gates of a run started; of a file alone that is not known, and taken as "paper"."""
    try:
        return Run.open(Path(weights))[1].init
    except ValueError:
        return "paper"


def start_from_weights(network: nn.Module, config: TrainConfig) -> str:
    """Load `config.weights` into a fresh network, in place; returns a line that says what came.

    Raises:
        ValueError: for weights of another network.
    """
    source = str(config.weights)
    loaded = load_weights(network, read_weights(source), source)
    new = [name for name in loaded.new if GATES not in f".{name}"]
    more = f"; a new head: {', '.join(new)}" if new else ""
    return f"starting from {source}: {loaded.tensors} tensors{more}"


def keeps_head(network: nn.Module, config: TrainConfig) -> bool:
    """Whether the weights have a head that fits the classes as it is."""
    source = str(config.weights)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    new = load_weights(network, read_weights(source), source).new
    network.load_state_dict(before)
    outer = {f"{name}.{part}" for name in heads(network) for part in ("weight", "bias")}
    return not outer & set(new)
