"""The classification network that a detector stands on, and the gates on it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN

from accuracy_booster.blocks import Recipe
from accuracy_booster.blocks import recipe as as_recipe
from accuracy_booster.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from accuracy_booster.detection.norms import batch_norms
from accuracy_booster.detection.stages import find_stages
from accuracy_booster.errors import shown
from accuracy_booster.models import builder, create_model
from accuracy_booster.models.own_networks import is_own
from accuracy_booster.models.preprocessing import preprocessing_of, pretrained_preprocessing
from accuracy_booster.models.registry import is_model
from accuracy_booster.surgery import attached, boost
from accuracy_booster.surgery.refusing import refuse_wrapped
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.run_directory import Run

IMAGENET = IMAGENET_MEAN, IMAGENET_STD  # of pixels in [0, 1]
Normalisation = tuple[Sequence[float], Sequence[float]]  # mean and std of pixels in [0, 1]


def backbone_network(
    backbone: str | Path | nn.Module, pretrained: bool, block: str | Recipe | None
) -> tuple[nn.Module, bool, Normalisation]:
    """The classification network of a detector.

    Args:
        backbone: the name of a network, the directory of a finished training, or a module, which
            is copied.
        pretrained: whether a named network gets the trained weights of its library.
        block: the block that the detector is to have, to check that of a finished training.

    Returns:
        The network, whether its weights are trained, and how its images are normalised.

    Raises:
        ValueError: for an unknown name, a directory without a finished training, another block than
            that of the training, or images of other than 3 channels.
    """
    if isinstance(backbone, nn.Module):
        refuse_wrapped(backbone)
        if isinstance(backbone, FasterRCNN):
            raise ValueError(
                f"the backbone is a {type(backbone).__name__}, a whole detector; give a "
                "classification network, or boost the detector itself with ab.boost(detector)"
            )
        if pretrained:
            raise ValueError(
                "pretrained=True is for a name; a module has the weights that you gave it"
            )
        own = preprocessing_of(backbone)
        norms = batch_norms(backbone).values()
        trained = any(bool(norm.running_mean.any()) for norm in norms)  # type: ignore[union-attr, operator]
        return copy.deepcopy(backbone), trained, (own.mean, own.std) if own else IMAGENET
    if not isinstance(backbone, (str, Path)):
        raise ValueError(
            f"backbone={shown(backbone)} must be a network's name, the directory of a training, or "
            "a module"
        )
    path = Path(backbone).expanduser()
    if isinstance(backbone, Path) or (path.is_dir() and not is_model(backbone)):
        return _trained_network(path, pretrained, block)
    builder(backbone)  # raises for unknown names
    network = create_model(backbone, pretrained=pretrained)
    known = pretrained_preprocessing(backbone)
    fits = known is not None and len(known.mean) == 3
    return network, pretrained, (known.mean, known.std) if known and fits else IMAGENET


def _trained_network(
    path: Path, pretrained: bool, block: str | Recipe | None
) -> tuple[nn.Module, bool, Normalisation]:
    if pretrained:
        raise ValueError(f"pretrained=True is for a name; {path} has the weights of its training")
    run, config = Run.open(path)
    if is_own(config.model):
        raise ValueError(
            f"the run in {path} is of your own code ({config.model}), and code is never "
            "imported merely because a run's file names it; give the network itself: "
            "ab.load_run(RUN, model=...)"
        )
    if block is not None and not _same(block, config.block):
        raise ValueError(
            f"block={shown(str(block))}, but the network in {path} was trained with "
            f"block={config.block!r}; leave block out"
        )
    if config.in_chans != 3:
        raise ValueError(
            f"the network in {path} takes images of {config.in_chans} channels; a detector's have 3"
        )
    normalisation = (config.mean or IMAGENET[0], config.std or IMAGENET[1])
    return load_network(run, config), True, normalisation


def _same(block: str | Recipe, other: str) -> bool:
    """Whether two blocks are the same, as names or texts."""
    if "none" in (block, other):
        return block == other
    return as_recipe(block) == as_recipe(other)


def check_gates(network: nn.Module, block: str | Recipe | None) -> None:
    """Raise ValueError for a block that a detector cannot have, or gates of another block.

    A detector cannot have a block with one weight per position, because its feature maps are as
    large as its images.
    """
    gates = {str(gate.recipe): gate.recipe for gate in attached(network).values()}
    wanted = None if block is None or block == "none" else as_recipe(block)
    for recipe in (*gates.values(), *([wanted] if wanted is not None else [])):
        if recipe.needs_spatial_size:
            raise ValueError(
                f"the block {shown(str(recipe))} has a weight for each position of maps of one "
                "size, and a detector's maps are as large as its images; use another block"
            )
    if gates and block is not None and set(gates.values()) != {wanted}:
        raise ValueError(
            f"block={shown(str(block))}, but the backbone has gates of {', '.join(gates)} already; "
            "leave block out, or take them off first (ab.unboost)"
        )


def attach_gates(network: nn.Module, block: str | Recipe, init: str) -> None:
    """Attach gates to the residual branches, in place.

    The gates take their random numbers from a fork of torch's generator. So what is made
    afterwards starts with the same values as without gates.
    """
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, ())))
        try:
            boost(network, block, init=init)
        except ValueError as e:
            if "where=" not in str(e):
                raise
            find_stages(network)  # raises for networks that cannot be a backbone at all
            raise ValueError(
                f"{e}; in a detector: give a module that is boosted so, or block='none'"
            ) from None
