"""The gates of a trained network made constants: the weights that a plain network starts from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from accuracy_booster.files import pack, unpack, write
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import MERGED


def constant_weights(spec: Spec, places: Places) -> tuple[Path, dict[str, float]]:
    """The file of the plain network's weights, and its accuracies before it is trained.

    The mean weights are those over the training images without augmentation. The accuracies are
    that of the network as it comes, and that after its norms' statistics were re-estimated.
    """
    path = places.work / f"{spec.name}.start.safetensors"
    with suppress(OSError, ValueError):  # not made yet, or cut off: it is made anew
        values = unpack(path).values
        if set(values) == set(MERGED):
            return path, values
    assert spec.parent is not None
    network, values = _constants(places.run(spec.parent), places.data_of(str(spec.options["data"])))
    content, _ = pack(network.state_dict(), values)
    write(path, content)
    return path, values


def _constants(run: Path, place: dict[str, Any]) -> tuple[torch.nn.Module, dict[str, float]]:
    """The plain network of a run with gates, and its accuracies."""
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
