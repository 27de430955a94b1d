"""`ab.inspect`: what the gates of a trained network do, and what the accuracy owes to them."""

# N images, C channels

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from torch import nn

from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.inspection.example_images import EXAMPLES, VARYING
from accuracy_booster.inspection.gate_statistics import Gates
from accuracy_booster.inspection.gate_weights import LocatedGate, repair_and_find
from accuracy_booster.inspection.layer_names import find_layer
from accuracy_booster.inspection.opened_networks import (
    batch_count,
    gates_of,
    inputs_of,
    read_images,
)
from accuracy_booster.inspection.results import (
    BY_IMAGE,
    WHICH,
    Inspection,
    Outcome,
    Zeroed,
    idle_of,
)
from accuracy_booster.inspection.variant_accuracies import measure_variants
from accuracy_booster.inspection.variants import Variant, frozen, zeroed
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.surgery.wrappers import unwrapped
from accuracy_booster.training.initial_weights import run_of
from accuracy_booster.training.network_outputs import try_network
from accuracy_booster.training.opening_to_measure import Opened, open_measured
from accuracy_booster.training.run_directory import Run

PERCENTS = (5.0, 10.0, 15.0, 20.0, 25.0)  # Table 16
EVERY_GATE = "every gate"  # the name of the variant


def inspect(
    run: str | Path | nn.Module | None = None,
    data: Any = None,
    *,
    model: Any = None,
    split: str = "test",
    layer: str | None = None,
    percents: Sequence[float] = PERCENTS,
    by: str = BY_IMAGE,
    images: int | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Inspection:
    """What each gate of a trained network does, and the accuracy with changed gates.

    One pass over the images records every gate (`ab.gates`). A second one measures top-1 on the
    same images with changed gates: each gate alone frozen at its mean weights, all of them frozen,
    and the channels of the highest, the lowest and random weights zeroed in every block. A third
    one freezes together all gates that could be frozen alone without a change of the accuracy.

    Args:
        run: a run's directory, or a boosted module.
        data: as for `ab.evaluate`; by default, for a run, what it was trained on.
        model: the network itself, if the run trained a network of your own: as for `ab.train`.
        split: "test", "train" (without augmentation) or "validation".
        layer: the layer of Figure 3: a site, a module around one, or the paper's name, such as
            "Conv4_1". By default the first block of the last stage.
        percents: of the channels of every block that are zeroed (Table 16); () measures none.
        by: "image" ranks the channels by each image's own weights, as the paper's text says;
            "average" by their mean over all images.
        images: look at the first so many images only.
        seed: of the random channels.
        classes, options: as for `ab.evaluate`.

    Raises:
        ValueError: for a network without gates, a layer that does not exist (with the nearest
            names), data of other classes, or a percentage out of range.

    Source: Accuracy Booster, section 7.6, Figure 3 and Table 16. Freezing, the intervals and the
    random channels are ours.
    """
    if images is not None and (not isinstance(images, int) or images < 1):
        raise ValueError(f"images={images!r} must be a whole number >= 1")
    if isinstance(percents, (str, Real)) or not isinstance(percents, Iterable):
        raise ValueError(f"percents={percents!r} must be several numbers, such as (5, 10, 25)")
    zeroings = [(percent, which) for percent in percents for which in WHICH]
    for percent, which in zeroings:  # checks the arguments, before anything is read
        zeroed(percent, which, by=by)
    if run is None:
        run, model = model, None  # inspect(model=module)
    _check_run(run)
    opened = open_measured(run, data, split=split, model=model, classes=classes, **options)
    network = unwrapped(opened.network)
    _check_fits(opened, network, repair_and_find(network), layer)
    gates = gates_of(opened, images)
    shown_layer = gates.find(layer)  # raises if no gate ran
    means = {site: gate.mean for site, gate in gates.items()}
    variants: dict[str, Variant] = {f"frozen {site}": frozen(means, [site]) for site in means}
    variants[EVERY_GATE] = frozen(means, list(means))
    variants |= {
        f"{which} {percent} %": zeroed(percent, which, by=by, means=means, seed=seed)
        for percent, which in zeroings
    }

    def measure(variants: dict[str, Variant]) -> tuple[float, int, dict[str, Outcome]]:
        batches, total = inputs_of(opened, images), batch_count(opened, images)
        with opened.accelerator.autocast():
            return measure_variants(
                network, batches, variants, total=total, outputs_of=opened.places
            )

    top1, count, outcomes = measure(variants)
    frozen_alone = {site: outcomes[f"frozen {site}"] for site in means}
    idle, idle_frozen = idle_of(frozen_alone), None
    if idle:
        (idle_frozen,) = measure({"frozen together": frozen(means, idle)})[2].values()
    pictures, labels = read_images(opened, _shown_images(gates))
    return Inspection(
        title=_title(opened, run),
        gates=gates,
        top1=top1,
        images=count,
        frozen=frozen_alone,
        all_frozen=outcomes[EVERY_GATE],
        idle_frozen=idle_frozen,
        zeroed=tuple(
            Zeroed(percent, which, outcomes[f"{which} {percent} %"]) for percent, which in zeroings
        ),
        by=by,
        layer=shown_layer,
        split=split,
        pictures=pictures,
        labels=labels,
    )


def _check_fits(
    opened: Opened, network: nn.Module, located: Sequence[LocatedGate], layer: str | None
) -> None:
    """Raise ValueError for a layer or data that do not fit, before the passes, which take long."""
    find_layer(layer, {one.site: (one.gate.channels, one.block.spatial_size) for one in located})
    size, device = opened.data.input_size, opened.accelerator.device
    with opened.accelerator.autocast(), in_eval_mode(network):
        opened.places(try_network(network, type(network).__name__, size, device))


def _check_run(model: str | Path | nn.Module | None) -> None:
    """Raise ValueError for a run without gates, or of a detector, before its data are read."""
    if isinstance(model, (str, Path)):
        if run_of(str(model), (DetectConfig,)) is not None:
            raise ValueError(
                f"the run in {model} is of a detector, which has no top-1 accuracy to measure; "
                "look at its gates by ab.gates(ab.detection.load(RUN), ab.detection.load_coco(DATA)"
                ".loaders['test'])"
            )
        _, config = Run.open(Path(model))
        if config.block == "none":
            raise ValueError(
                f"the run in {model} was trained without a block, so it has no gates to look at; "
                "give a run of accuracy-booster train --block ab (or another block)"
            )


def _title(opened: Opened, model: str | Path | nn.Module) -> str:
    if isinstance(model, nn.Module):
        return f"{type(unwrapped(model)).__name__} on {Path(opened.data.name).name}"
    config = opened.config
    return f"{config.model} with {config.block} on {Path(opened.data.name).name}"


def _shown_images(gates: Gates) -> list[int]:
    """Numbers of the images that the report shows: the extremes of the channels that vary most."""
    found: list[int] = []
    for gate in gates.values():
        for ends in filter(None, (gate.highest, gate.lowest)):
            found += ends.images[gate.varying(VARYING), :EXAMPLES].flatten().tolist()
    return found
