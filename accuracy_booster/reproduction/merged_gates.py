"""Weights of a network whose trained gates were made constants, for the tables that train it on.

`fastpath.merge` replaces each gate by its mean weights over the training images, and multiplies
them into the batch norm before it. What is left is the network without gates.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.files import pack, unpack, write
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import MERGED


def weights_of_merged(spec: Spec, places: Places) -> tuple[Path, dict[str, float]]:
    """The file of the weights, and the network's accuracies in % before it is trained further.

    The mean weights are taken over the training images without augmentation. The accuracies
    (`table.MERGED`) are that of the network as it is, and that after the running statistics of its
    norms were re-estimated. The file holds the re-estimated network, and is made once.
    """
    path = places.work / f"{spec.name}.start.safetensors"
    with suppress(OSError, ValueError):  # not made yet, or cut off: it is made again
        values = unpack(path).values
        if set(values) == set(MERGED):
            return path, values
    assert spec.parent is not None
    network, values = _merged(places.run(spec.parent), places.data_of(str(spec.options["data"])))
    content, _ = pack(network.state_dict(), values)
    write(path, content)
    return path, values


def _merged(run: Path, place: dict[str, Any]) -> tuple[torch.nn.Module, dict[str, float]]:
    """The network of a run with its gates made constants, and its two accuracies."""
    from accuracy_booster.fastpath import merge
    from accuracy_booster.inspection.batch_norms import reestimate_norms
    from accuracy_booster.inspection.opened_networks import gates_of
    from accuracy_booster.training.evaluation import measure_opened
    from accuracy_booster.training.opening_to_measure import open_measured

    opened, test = (open_measured(run, split=split, **place) for split in ("train", "test"))
    network = merge(opened.network, gates_of(opened))
    merged, reestimated = MERGED
    values = {merged: measure_opened(test, network).top1}
    reestimate_norms(opened, network)
    values[reestimated] = measure_opened(test, network).top1
    return network, values
