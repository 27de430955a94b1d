"""What the caller gives a training as objects: a network of its own, and data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accuracy_booster.data.dataset_source import dataset_name, given_splits
from accuracy_booster.errors import shown
from accuracy_booster.models.own_networks import OwnNetwork, own_network
from accuracy_booster.training.train_config import TrainConfig


@dataclass(frozen=True)
class OwnObjects:
    """The caller's objects.

    Attributes:
        network: makes the network; None if the configuration names it.
        data: the data set of each split; None if the configuration names the data.
        data_name: what the configuration calls these data.
    """

    network: OwnNetwork | None = None
    data: Mapping[str, Any] | None = None
    data_name: str = ""

    @property
    def trained(self) -> bool:
        """Whether a network is given that comes with trained weights."""
        return self.network is not None and self.network.trained

    def with_network(self, given: Any) -> OwnObjects:
        """The same, with a network; errors as `models.own_networks.own_network`."""
        return replace(self, network=own_network(given))

    def of_run(self, given: Any) -> OwnObjects:
        """The same, with the network that is given for a run of one's own network, if it is.

        Raises:
            ValueError: for a network's name; and as `own_network`.
        """
        if given is None:
            return self
        own = self.with_network(given)
        if own.network is None:
            raise ValueError(
                f"model={shown(given)} is a name, and must be a network of your own: the module, "
                "or its import path, package.module:function or file.py:function; a run of a named "
                "network knows its name, so leave model out there"
            )
        return own

    def with_data(self, given: Any) -> OwnObjects:
        """The same, with the data sets that `data=` was given; errors as `given_splits`."""
        if given is None or isinstance(given, (str, Path)):
            return self
        return replace(self, data=given_splits(given), data_name=dataset_name(given))


NOTHING = OwnObjects()


def take_objects(model: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any], OwnObjects]:
    """Tell a training's names from its objects.

    Args:
        model: a network's name, a `TrainConfig`, or what `own_network` takes.
        options: of the training; `data` may be data sets.

    Returns:
        The model and the options with names alone, and the objects.
    """
    named = model.model if isinstance(model, TrainConfig) else model
    own = NOTHING if named is None else NOTHING.with_network(named)
    options = dict(options)
    if "data" in options and (taken := own.with_data(options["data"])).data is not None:
        own, options["data"] = taken, taken.data_name
    if own.network is not None:
        name = own.network.name
        model = model.change({"model": name}) if isinstance(model, TrainConfig) else name
    return model, options, own
