"""Estimate the running statistics of a network's batch norms again, after it was changed."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from torch.optim.swa_utils import update_bn

from accuracy_booster.data.batches import Loader
from accuracy_booster.inspection.opened_networks import inputs_of
from accuracy_booster.training.opening_to_measure import Opened


def reestimate_norms(opened: Opened, network: nn.Module) -> None:
    """Estimate the running statistics of a network's batch norms on the opened images, in place.

    The images come in random order, since torch's `update_bn` averages the variances within the
    batches. In a batch of one class the variance is too small.

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
    """A loader of the same images in random order."""
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
