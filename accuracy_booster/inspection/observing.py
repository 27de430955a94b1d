"""`ab.gates`: one pass over a data set that records what every gate does."""

# N images, C channels

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from accuracy_booster.errors import is_out_of_memory
from accuracy_booster.inspection.accumulating import Accumulator
from accuracy_booster.inspection.batches import Inputs, batches
from accuracy_booster.inspection.processes import gathered
from accuracy_booster.inspection.statistics import Gates
from accuracy_booster.inspection.weights import Place, by_channel, changed, places
from accuracy_booster.progress import bars
from accuracy_booster.surgery.inputs import Example, described
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
    mode, without gradients, on the device it is on; nothing of it changes. Under `torchrun` each
    process passes its share, and every process gets the result over all.

    Args:
        model: a boosted network: ours or any other. Wrappers (DDP, `torch.compile`) are looked
            through.
        loader: yields images [N, C, H, W] as the network takes them, (images, labels), or dicts
            such as {"pixel_values": ..., "labels": ...}. Labels are class numbers [N], or [N, K];
            with them the result tells what the class explains. A detector's loader yields (images,
            targets), lists as torchvision's have them, or is one of `ab.detection.load_coco`:
            nothing is said of classes then.
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
    watched = places(network)
    found = batches(loader, network, example, images)
    return observe(network, watched, found, total=_length(loader), classes=classes)


def observe(
    network: nn.Module,
    watched: Sequence[Place],
    found: Iterable[Inputs],
    *,
    total: int | None = None,
    classes: Sequence[str] = (),
) -> Gates:
    """The same, of batches that are made already; `total` is how many, for the progress display."""
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        raise ValueError(
            f"{type(network).__name__} is on the meta device, where tensors have no values; load "
            "its weights first"
        )
    _check_names(classes)
    watcher = _Watcher(watched)

    def look() -> tuple[int, dict[str, Accumulator], set[str]]:
        with evaluating(network), changed(network, watcher.note), bars() as progress:
            task = progress.add_task("Watching gates", total=total, note="")
            for inputs in found:
                _check_labels(inputs, classes)
                run(network, inputs)
                watcher.end(inputs)
                progress.advance(task)
        return watcher.images, watcher.gathered, watcher.per_position

    count, merged, per_position = 0, dict[str, Accumulator](), set[str]()
    for number, accumulators, found_maps in gathered(look):
        count += number
        per_position |= found_maps
        for site, one in accumulators.items():
            if site in merged:
                merged[site].merge(one)
            else:
                merged[site] = one
    if not count:
        raise ValueError("the loader yields no images")
    by_site = {place.site: place for place in watched}
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
    more = range(len(classes), max(map(len, counts), default=0))
    return Gates(
        results,
        network=type(network).__name__,
        images=count,
        classes=(*classes, *map(str, more)),
        silent=tuple(place.site for place in watched if place.site not in merged),
    )


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


def run(network: nn.Module, inputs: Inputs) -> Any:
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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each module's mode is put back."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Watcher:
    """Takes the weights of each pass."""

    def __init__(self, watched: Sequence[Place]):
        self.scales = {place.site: place.gate.recipe.scale for place in watched}
        self.gathered: dict[str, Accumulator] = {}
        self.images = 0
        self._now: dict[str, list[torch.Tensor]] = {}
        self.per_position: set[str] = set()

    def note(self, site: str, weights: torch.Tensor) -> torch.Tensor:
        """Called with the weights of each gate as it runs."""
        if weights.ndim > 2:
            self.per_position.add(site)
        self._now.setdefault(site, []).append(by_channel(weights.detach()))
        return weights

    def end(self, inputs: Inputs) -> None:
        """Count the weights of the pass that has ended."""
        for site, calls in self._now.items():
            # a gate that runs several times in a pass: the mean for each image
            same = all(call.shape == calls[0].shape for call in calls)
            p = torch.stack(calls).mean(0) if same else torch.cat(calls)
            if not len(p):  # no region was proposed
                continue
            if not bool(p.isfinite().all()):
                raise ValueError(
                    f"the gate at {site!r} gives weights that are not numbers (NaN); look at the "
                    "loader's images and at the network's parameters"
                )
            one = self.gathered.setdefault(site, Accumulator(p.shape[1], float(self.scales[site])))
            rows, rest = divmod(len(p), inputs.count)
            # the regions of a detector, not one per image: each counts
            if rest or not same or (inputs.of_sizes and rows != 1):
                one.add(p)
            else:
                p = p.unflatten(0, (inputs.count, rows)).mean(1)
                one.add(p, inputs.labels, inputs.numbers)
        self._now.clear()
        self.images += inputs.count


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
