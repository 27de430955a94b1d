"""Build the classification network that a configuration names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from accuracy_booster.blocks import recipe
from accuracy_booster.models import builder, create_model
from accuracy_booster.surgery.where import Where
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.train_config import TrainConfig


def check_network_and_block(config: RunConfig) -> None:
    """Raise ValueError for an unknown network or a wrong block, before any data are read."""
    builder(config.network)
    if config.block != "none":
        recipe(config.block)


def build_network(
    config: TrainConfig, *, pretrained: bool = False, where: Where = "residual"
) -> nn.Module:
    """The network of a completed configuration, in its memory format, fresh or pretrained.

    Args:
        where: the sites of its gates, as for `ab.boost`.
    """
    with _quiet_on_weights_to_come(config, pretrained):
        network = create_model(
            config.model,
            block=config.block,
            init="identity" if config.block != "none" and config.init == "identity" else "paper",
            where=where,
            pretrained=pretrained,
            num_classes=config.num_classes or 0,
            in_chans=config.input_size[0],
            input_size=config.input_size,
        )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return network.to(memory_format=layout)


@contextmanager
def _quiet_on_weights_to_come(config: TrainConfig, pretrained: bool) -> Iterator[None]:
    """Within it, no warning of norms with zero weights, if trained weights will replace them."""
    with warnings.catch_warnings():
        if config.weights is not None or config.pretrained != pretrained:
            warnings.filterwarnings("ignore", r"\d+ of \d+ branches end in a norm whose weight is")
        yield
