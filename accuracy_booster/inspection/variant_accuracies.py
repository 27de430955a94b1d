"""Accuracy with changed gates, next to the accuracy of the network as it is, in one pass."""

# N images, K classes

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from accuracy_booster.inspection.batches import Inputs
from accuracy_booster.inspection.gate_weights import changed
from accuracy_booster.inspection.observing import evaluating, run
from accuracy_booster.inspection.processes import gathered
from accuracy_booster.inspection.results import Outcome
from accuracy_booster.inspection.variants import Variant
from accuracy_booster.progress import bars
from accuracy_booster.training.network_outputs import split_outputs

NORMAL = 1.959964  # the 97.5 % quantile


def trials(
    network: nn.Module,
    found: Iterable[Inputs],
    variants: Mapping[str, Variant],
    *,
    total: int | None = None,
    places: Callable[[int], Sequence[int] | None] = lambda outputs: None,
) -> tuple[float, int, dict[str, Outcome]]:
    """Top-1 in % as it is, the number of images, and the outcome of each variant.

    Every batch runs once for the network as it is and once for each variant, so the changes are
    paired over images and the data are read once.

    Args:
        found: batches with labels.
        places: which output belongs to each class, given how many outputs there are; None is
            their order.

    Raises:
        ValueError: for batches without labels.
    """

    def look() -> torch.Tensor:
        # hits, images; then by variant: right that were wrong, wrong that were right
        sums = torch.zeros(1 + len(variants), 2, dtype=torch.int64)
        gates = _Gates()
        with evaluating(network), changed(network, gates.change), bars() as progress:
            steps = None if total is None else total * (1 + len(variants))
            task = progress.add_task("Changing gates", total=steps, note="")
            for inputs in found:
                if inputs.labels is None or bool((inputs.labels < 0).any()):
                    raise ValueError(
                        "accuracies need the class of each image; let the loader yield (images, "
                        "labels) with labels >= 0"
                    )
                gates.numbers, gates.variant = inputs.numbers, None
                before = _hits(network, inputs, places)
                sums[0] += torch.tensor([int(before.sum()), len(before)])
                progress.advance(task)
                for row, (name, variant) in enumerate(variants.items(), 1):
                    progress.update(task, note=name)
                    gates.variant = variant
                    after = _hits(network, inputs, places)
                    gained, lost = (after & ~before).sum(), (before & ~after).sum()
                    sums[row] += torch.stack([gained, lost]).cpu()
                    progress.advance(task)
        return sums

    sums = torch.stack(gathered(look)).sum(0)
    (hits, count), *changes = sums.tolist()
    if not count:
        raise ValueError("the loader yields no images")
    outcomes = {
        name: paired(hits, count, gained, lost)
        for name, (gained, lost) in zip(variants, changes, strict=True)
    }
    return 100 * hits / count, count, outcomes


def paired(hits: int, count: int, gained: int, lost: int) -> Outcome:
    """The outcome of `gained` and `lost` right answers among `count`, of which `hits` were right.

    The interval is Agresti and Min's for matched pairs: Wald's with 1/2 added to each of the four
    cells of the table, so that it has a width where no answer changed.
    """
    n, b, c = count + 2, gained + 0.5, lost + 0.5
    change = (b - c) / n
    half = NORMAL * math.sqrt(max(0.0, (b + c) / n - change**2) / n)
    return Outcome(
        top1=100 * (hits + gained - lost) / count,
        change=100 * (gained - lost) / count,
        low=100 * (change - half),
        high=100 * (change + half),
    )


@dataclass
class _Gates:
    """What the gates do in the pass under way: the network is prepared once for all passes."""

    variant: Variant | None = None
    numbers: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def change(self, site: str, p: torch.Tensor) -> torch.Tensor:
        return p if self.variant is None else self.variant(site, p, self.numbers)


def _hits(
    network: nn.Module, inputs: Inputs, places: Callable[[int], Sequence[int] | None]
) -> torch.Tensor:
    """[N], whether the highest output is the image's class."""
    logits = split_outputs(run(network, inputs))[0]
    labels = inputs.labels
    assert labels is not None
    labels = labels.to(logits.device)
    if (order := places(logits.shape[1])) is not None:
        labels = torch.tensor(order, device=labels.device)[labels]
    return logits.argmax(1) == labels
