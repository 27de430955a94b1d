"""`ab.gates`: one pass over a data set that records what every gate does."""

# N images, C channels

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from accuracy_booster.errors import is_out_of_memory
from accuracy_booster.inspection.accumulating import Accumulator
from accuracy_booster.inspection.batches import Inputs, inputs_from
from accuracy_booster.inspection.gate_statistics import Gates
from accuracy_booster.inspection.gate_weights import (
    LocatedGate,
    by_channel,
    repair_and_find,
    weights_changed,
)
from accuracy_booster.inspection.processes import gathered
from accuracy_booster.progress import bars
from accuracy_booster.surgery.inputs import Example, described
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.surgery.quiet_passes import FAILURES
from accuracy_booster.surgery.wrappers import unwrapped


def gates(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    classes: Sequence[str] = (),
    example: Example | None = None,
    images: int | None = None,
) -> Gates:
    """What every gate of a network does on the images of a loader, in one pass.

    The memory that it takes does not depend on the number of images. The network computes in eval
    mode, without gradients, on the device it is on, and stays as it is. Only gates that another
    tool dropped are put back, as in any pass. Under `torchrun` each process passes its share, and
    every process gets the result over all.

    Args:
        model: a boosted network: ours or any other. Wrappers (DDP, `torch.compile`) are looked
            through.
        loader: yields images [N, C, H, W] as the network takes them, (images, labels), or dicts
            such as {"pixel_values": ..., "labels": ...}. Labels are class numbers [N], or one-hot
            [N, K]; with them the result tells how much of a gate's variance the class explains. A
            detector's loader yields (images, targets), lists as in torchvision, or is one of
            `ab.detection.load_coco`; then the result tells nothing about classes.
        classes: the names of the classes, by their numbers.
        example: the structure of the inputs of a network that takes several: a tuple (the first
            items of a batch are the inputs) or a dict (their names in a dict).
        images: look at the first so many only, of all processes together.

    Raises:
        ValueError: for a network without gates, a batch that it cannot take, or weights that are
            not numbers (NaN).

    Source: Accuracy Booster, section 7.6, for the weights averaged over images; the rest is ours.
    """
    network = unwrapped(model)
    if images is not None and (not isinstance(images, int) or images < 1):
        raise ValueError(f"images={images!r} must be a whole number >= 1")
    located = repair_and_find(network)
    found = inputs_from(loader, network, example, images)
    return observe(network, located, found, total=_length(loader), classes=classes)


def observe(
    network: nn.Module,
    located: Sequence[LocatedGate],
    found: Iterable[Inputs],
    *,
    total: int | None = None,
    classes: Sequence[str] = (),
) -> Gates:
    """`gates` on batches that are made already.

    Args:
        located: all gates of the network.
        found: the batches of this process.
        total: how many there are, for the progress display.
    """
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        raise ValueError(
            f"{type(network).__name__} is on the meta device, where tensors have no values; load "
            "its weights first"
        )
    _check_names(classes)
    watcher = _Watcher(located)

    def look() -> _Seen:
        with (
            in_eval_mode(network),
            torch.no_grad(),
            weights_changed(network, watcher.note),
            bars() as progress,
        ):
            task = progress.add_task("Watching gates", total=total, note="")
            for inputs in found:
                _check_labels(inputs, classes)
                run_network(network, inputs)
                watcher.end_batch(inputs)
                progress.advance(task)
        return watcher.images, watcher.gathered, watcher.per_position

    count, merged, per_position = _merged(gathered(look))
    if not count:
        raise ValueError("the loader yields no images")
    by_site = {one.site: one for one in located}
    results = {  # in the order in which the gates ran
        site: one.result(
            site=site,
            recipe=str(by_site[site].gate.recipe),
            width=by_site[site].gate.channels,
            spatial_size=by_site[site].block.spatial_size,
            per_position=site in per_position,
            shared=one.channels < by_site[site].gate.channels,
        )
        for site, one in merged.items()
    }
    counts = [r.class_counts for r in results.values() if r.class_counts is not None]
    unnamed = range(len(classes), max(map(len, counts), default=0))
    return Gates(
        results,
        network=type(network).__name__,
        images=count,
        classes=(*classes, *map(str, unnamed)),
        silent=tuple(one.site for one in located if one.site not in merged),
    )


# what a process has seen: the number of images, {site: its statistics}, and the sites whose gates
# have a weight for each position
_Seen = tuple[int, dict[str, Accumulator], set[str]]


def _merged(every: Iterable[_Seen]) -> _Seen:
    """What all processes have seen together."""
    count, merged, per_position = 0, dict[str, Accumulator](), set[str]()
    for images, accumulators, maps in every:
        count += images
        per_position |= maps
        for site, one in accumulators.items():
            if site in merged:
                merged[site].merge(one)
            else:
                merged[site] = one
    return count, merged, per_position


def _check_names(classes: Sequence[str]) -> None:
    twice = [name for name in classes if list(classes).count(name) > 1] if len(classes) else []
    if twice:
        raise ValueError(f"classes= names {twice[0]!r} twice; give each class its own name")


def _check_labels(inputs: Inputs, classes: Sequence[str]) -> None:
    """Raise ValueError for a label without a name, where names are given."""
    if len(classes) and inputs.labels is not None and len(inputs.labels):
        largest = int(inputs.labels.max())
        if largest >= len(classes):
            raise ValueError(
                f"the loader has a label {largest}, and classes= has {len(classes)} names; name "
                f"all of the classes, from 0 to {largest} at least"
            )


def run_network(network: nn.Module, inputs: Inputs) -> Any:
    """The output for one batch.

    Raises:
        ValueError: if the network cannot take it.
    """
    try:
        return network(*inputs.args, **inputs.kwargs)
    except FAILURES as e:
        if is_out_of_memory(e):
            raise
        given = described(inputs.kwargs or inputs.args)
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ValueError(
            f"{type(network).__name__} cannot take a batch of the loader, {given}: {reason}; let "
            "the loader yield what the network takes, and if it has several inputs, give their "
            "structure as example=(a, b) or example={'a': ..., 'b': ...}"
        ) from e


class _Watcher:
    """Collects the weights of each gate, and adds them to its statistics after each batch.

    Attributes:
        gathered: {site: statistics}.
        images: how many images were seen.
        per_position: the sites whose gates have a weight for each position.
    """

    def __init__(self, located: Sequence[LocatedGate]):
        self.scales = {one.site: one.gate.recipe.scale for one in located}
        self.gathered: dict[str, Accumulator] = {}
        self.images = 0
        self.per_position: set[str] = set()
        self._calls: dict[str, list[torch.Tensor]] = {}  # the weights [N, C] in this batch

    def note(self, site: str, weights: torch.Tensor) -> torch.Tensor:
        """Keep the weights that a gate has computed; returns them unchanged."""
        if weights.ndim > 2:
            self.per_position.add(site)
        self._calls.setdefault(site, []).append(by_channel(weights.detach()))
        return weights

    def end_batch(self, inputs: Inputs) -> None:
        """Add the weights of the batch that has passed."""
        for site, calls in self._calls.items():
            # a gate that ran several times on the same images: its mean weight for each image
            same = all(call.shape == calls[0].shape for call in calls)
            p = torch.stack(calls).mean(0) if same else torch.cat(calls)
            if not len(p):  # a detector proposed no region
                continue
            if not bool(p.isfinite().all()):
                raise ValueError(
                    f"the gate at {site!r} gives weights that are not numbers (NaN); look at the "
                    "loader's images and at the network's parameters"
                )
            one = self.gathered.setdefault(site, Accumulator(p.shape[1], float(self.scales[site])))
            rows, rest = divmod(len(p), inputs.count)
            if rest or not same or (inputs.of_sizes and rows != 1):
                one.add(p)  # weights of a detector's regions belong to no single image
            else:
                p = p.unflatten(0, (inputs.count, rows)).mean(1)
                one.add(p, inputs.labels, inputs.numbers)
        self._calls.clear()
        self.images += inputs.count


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
