"""The statistics of a network's batch norms, estimated anew."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.optim.swa_utils import update_bn

from accuracy_booster.data.batches import Loader
from accuracy_booster.inspection.opening import inputs_of
from accuracy_booster.training.open_to_measure import Opened


def reestimate_norms(opened: Opened, network: nn.Module) -> None:
    """Estimate the running statistics of a network's batch norms on the opened images, in place.

    The images come in random order: torch's `update_bn` averages the variances within batches,
    which are too small where a batch is of one class.

    Raises:
        ValueError: with several processes, of which each would find other statistics.
    """
    if opened.accelerator.num_processes > 1:
        raise ValueError("norms are re-estimated in one process; start it without torchrun")
    loaders = {**opened.data.loaders, opened.split: in_random_order(opened.loader)}
    mixed = replace(opened, data=replace(opened.data, loaders=loaders))
    with opened.accelerator.autocast():
        update_bn((inputs.args[0] for inputs in inputs_of(mixed)), network)


def in_random_order(loader: Loader) -> Loader:
    """The same images in random order."""
    images = loader.dataset
    return Loader(
        images.images,
        images.transform,
        min(loader.batch_size, len(images)),
        shuffled=True,
        seed=loader.seed,
        workers=loader.workers,
        batch_transform=loader.batch_transform,
        shape=loader.shape,
    )
