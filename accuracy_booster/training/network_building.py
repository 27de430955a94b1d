"""Build the classification network that a configuration names."""

from __future__ import annotations

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
    config: TrainConfig, *, pretrained: bool = False, where: Where | None = None
) -> nn.Module:
    """The network of a completed configuration, in its memory format, fresh or pretrained.

    Args:
        where: other sites for its gates than those of the configuration, as for `ab.boost`.
    """
    network = create_model(
        config.model,
        block=config.block,
        init="identity" if config.block != "none" and config.init == "identity" else "paper",
        where=config.where if where is None else where,
        skip=config.skip if where is None else None,
        pretrained=pretrained,
        num_classes=config.num_classes or 0,
        in_chans=config.input_size[0],
        input_size=config.input_size,
    )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return network.to(memory_format=layout)
