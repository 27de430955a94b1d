"""Accuracy of a network with changed gates, paired with its accuracy as it is, in one pass."""

# N images, K classes

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from accuracy_booster.inspection.batches import Inputs
from accuracy_booster.inspection.gate_weights import weights_changed
from accuracy_booster.inspection.observing import run_network
from accuracy_booster.inspection.processes import gathered
from accuracy_booster.inspection.results import Outcome
from accuracy_booster.inspection.variants import Variant
from accuracy_booster.progress import bars
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.training.network_outputs import split_outputs

NORMAL = 1.959964  # the 97.5 % quantile
# the number of outputs -> which output belongs to each class; None if they are in their order
OutputsOf = Callable[[int], Sequence[int] | None]


def measure_variants(
    network: nn.Module,
    found: Iterable[Inputs],
    variants: Mapping[str, Variant],
    *,
    total: int | None = None,
    outputs_of: OutputsOf = lambda outputs: None,
) -> tuple[float, int, dict[str, Outcome]]:
    """Measure the accuracy as it is and with each variant of the gates.

    Every batch runs once for the network as it is and once for each variant. So the changes are
    paired over images, and the data are read once.

    Args:
        found: batches with labels.
        total: how many there are, for the progress display.

    Returns:
        Top-1 in % of the network as it is, the number of images, and the outcome of each variant.

    Raises:
        ValueError: for batches without labels.
    """

    def look() -> torch.Tensor:
        # the first row: images that are right, and all; then a row for each variant: images that
        # became right, and that became wrong
        sums = torch.zeros(1 + len(variants), 2, dtype=torch.int64)
        current = _Current()
        with (
            in_eval_mode(network),
            torch.no_grad(),
            weights_changed(network, current.change),
            bars() as progress,
        ):
            steps = None if total is None else total * (1 + len(variants))
            task = progress.add_task("Changing gates", total=steps, note="")
            for inputs in found:
                if inputs.labels is None or bool((inputs.labels < 0).any()):
                    raise ValueError(
                        "accuracies need the class of each image; let the loader yield (images, "
                        "labels) with labels >= 0"
                    )
                current.numbers, current.variant = inputs.numbers, None
                before = _hits(network, inputs, outputs_of)
                sums[0] += torch.tensor([int(before.sum()), len(before)])
                progress.advance(task)
                for row, (name, variant) in enumerate(variants.items(), 1):
                    progress.update(task, note=name)
                    current.variant = variant
                    after = _hits(network, inputs, outputs_of)
                    gained, lost = (after & ~before).sum(), (before & ~after).sum()
                    sums[row] += torch.stack([gained, lost]).cpu()
                    progress.advance(task)
        return sums

    sums = torch.stack(gathered(look)).sum(0)
    (hits, count), *changes = sums.tolist()
    if not count:
        raise ValueError("the loader yields no images")
    outcomes = {
        name: paired_outcome(hits, count, gained, lost)
        for name, (gained, lost) in zip(variants, changes, strict=True)
    }
    return 100 * hits / count, count, outcomes


def paired_outcome(hits: int, count: int, gained: int, lost: int) -> Outcome:
    """The outcome of a change after which `gained` more and `lost` fewer answers are right.

    The interval is Agresti and Min's for matched pairs. It is Wald's interval, with 1/2 added to
    each of the four cells of the table (right or wrong before, right or wrong after). So it has a
    width even if no answer changed.

    Args:
        hits: how many answers were right before.
        count: of how many images.
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


class _Current:
    """The variant that runs now, so that the gates are prepared once for all passes."""

    def __init__(self) -> None:
        self.variant: Variant | None = None
        self.numbers = torch.empty(0)

    def change(self, site: str, p: torch.Tensor) -> torch.Tensor:
        return p if self.variant is None else self.variant(site, p, self.numbers)


def _hits(network: nn.Module, inputs: Inputs, outputs_of: OutputsOf) -> torch.Tensor:
    """[N], whether the highest output is the image's class."""
    logits = split_outputs(run_network(network, inputs))[0]
    labels = inputs.labels
    assert labels is not None
    labels = labels.to(logits.device)
    if (order := outputs_of(logits.shape[1])) is not None:
        labels = torch.tensor(order, device=labels.device)[labels]
    return logits.argmax(1) == labels
