"""The final network of a run: written to the run's directory, and loaded from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from accuracy_booster.files import pack
from accuracy_booster.surgery import ATTRIBUTE
from accuracy_booster.training.network_building import (
    build_network,
    check_description,
    check_given,
)
from accuracy_booster.training.network_metadata import network_metadata
from accuracy_booster.training.own_objects import NOTHING, OwnObjects
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import WEIGHTS
from accuracy_booster.training.train_config import TrainConfig


def save_network(
    network: nn.Module, run: Run, result: Mapping[str, Any], config: RunConfig
) -> None:
    """Write what a run ended with: its result and its weights, hashed.

    The file of weights does not hold the run's id, so that a repeated run gives the same bytes.
    run.json holds the id, and the hash of the weights.
    """
    values = {"fingerprint": run.info.get("fingerprint"), "epochs": config.epochs}
    metadata = network_metadata(config, run.info)
    run.end(result, config.epochs, *pack(network.state_dict(), values, metadata))


def load_network(
    run: Run,
    config: TrainConfig,
    own: OwnObjects = NOTHING,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> nn.Module:
    """The network of a finished run with its final weights.

    Args:
        own: holds the network itself, if the run's configuration does not name it.
        weights: other weights of the run, such as those of its best epoch.

    Raises:
        ValueError: if the weights are damaged, or of another run or network; if the network must be
            given and is not, or is another one.
    """
    check_given(run, config, own)
    path = run.path / WEIGHTS
    try:
        state = OrderedDict(run.weights() if weights is None else weights)
        network = build_network(config, own, run=run)
        check_description(network, run.info.get("network"), run.path)
        if (gated := _gated(state)) != _gated(network.state_dict()):
            # an older version attached some gates after the activation, not before it
            network = build_network(config, own, where=gated, run=run)
        # torchvision's MNASNet asks for the metadata of a state dict, which a file does not hold
        state._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
        network.load_state_dict(state)
    except (RuntimeError, ValueError, OSError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ValueError(f"{path} does not load: {reason}") from e
    return network


def _gated(names: Iterable[str]) -> list[str]:
    """The modules whose gates have tensors in a state dict, each once."""
    parts = (name.partition(f".{ATTRIBUTE}.") for name in names)
    return sorted({module for module, found, _ in parts if found})
