"""Open a network and data to measure it on: of a run as it was trained, or of any module."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from accuracy_booster.data import Data, class_names, sources
from accuracy_booster.data.batches import Loader
from accuracy_booster.errors import TrainingStopped, unknown
from accuracy_booster.models.preprocessing import Preprocessing, preprocessing_of
from accuracy_booster.progress import note
from accuracy_booster.training.config import MEASURED, SPLITS, TrainConfig
from accuracy_booster.training.engine import load_network, make_accelerator, open_data
from accuracy_booster.training.network_outputs import try_network
from accuracy_booster.training.processes import agree
from accuracy_booster.training.reopen_data import check_place, what_changed
from accuracy_booster.training.run_directory import Run

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Opened:
    """A network on its device, and a split of its data.

    Attributes:
        run: None for a module.
        knows_classes: the labels are numbers of the network's outputs.
    """

    network: nn.Module
    config: TrainConfig
    run: Run | None
    data: Data
    split: str
    accelerator: Accelerator
    knows_classes: bool

    @property
    def loader(self) -> Loader:
        return self.data.loaders[self.split]

    def check_readable(self, unreadable: Sequence[str]) -> None:
        """Raise TrainingStopped if more images cannot be read than `bad_images` allows."""
        check_readable(unreadable, self.config.bad_images)

    def places(self, outputs: int) -> Sequence[int] | None:
        """The output of each class, given how many outputs there are; None is their order.

        Raises:
            ValueError: if the data have other classes than the network.
        """
        if (count := len(self.data.classes)) > outputs:
            raise ValueError(
                f"{self.data.name} has {count} classes, more than the head's {outputs}"
            )
        if self.knows_classes:
            return None
        return class_names.outputs_of(self.data.classes, outputs, self.data.name)


def check_readable(unreadable: Sequence[str], bad_images: int) -> None:
    """Raise TrainingStopped if more images cannot be read than `bad_images` allows."""
    if len(unreadable) > bad_images:
        raise TrainingStopped(
            f"{len(unreadable)} images cannot be read, more than bad_images={bad_images}; the "
            f"last: {unreadable[-1]}"
        )


def open_measured(
    model: str | Path | nn.Module,
    data: str | None = None,
    *,
    split: str = "test",
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Opened:
    """The network and the data that `evaluate` measures; its arguments are explained there.

    Raises:
        ValueError: for a directory without a finished run, an unknown option, or data that do not
            fit the network: among them class names that tell no outputs.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be 'test', 'train' or 'validation'")
    for name in options:
        if name not in MEASURED:
            raise unknown("option", name, MEASURED)
    run: Run | None = None
    more: dict[str, Any] = {}
    own_data = False  # whether a run is measured on what it was trained on
    if isinstance(model, nn.Module):
        if data is None:
            raise ValueError("which data? a module does not know; pass data=...")
        network, config = model, TrainConfig("module", data=data).change(options)
        size = config.image_size if isinstance(config.image_size, tuple) else None
        if own := preprocessing_of(model, size):
            more["own"] = own
    elif not isinstance(model, (str, Path)):
        raise ValueError(f"expected a run's directory or a module, got {type(model).__name__}")
    else:
        if classes is not None:
            raise ValueError("classes=... is for a module; a run knows the names of its classes")
        run, config = Run.open(Path(model))
        network, classes = load_network(run, config), run.info["classes"]
        more["hold_out"] = run.hold_out
        own_data = data is None or sources.full_name(str(data)) == sources.full_name(config.data)
        if data is None:
            check_place(run.path, config.data)
        elif not own_data:  # other data: their columns have other names
            config = config.change({"data": data, "image_column": None, "label_column": None})
        config = config.change(options)
    accelerator = make_accelerator(config)
    held_out = split == "validation"
    splits = ("train",) if held_out else (split,)
    loaded = open_data(config, splits=splits, training=False, classes=classes, **more)
    agree(accelerator, config, loaded)
    if "own" in more:
        note(f"images as the module was pretrained on: {_used(loaded)}")
    if own_data and run is not None and (changed := what_changed(run, config, loaded)):
        warnings.warn(changed, stacklevel=3)
    if split not in loaded.loaders:
        raise ValueError(f"{loaded.name} has no validation split, and the run held none out")
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != loaded.in_chans:
        raise ValueError(
            f"the network takes images of {first.in_channels} channels, {loaded.name} has "
            f"{loaded.in_chans}"
        )
    network.to(accelerator.device)
    if not isinstance(model, nn.Module) and "image_size" in options:
        try_network(network.eval(), config.model, loaded.input_size, accelerator.device)
    return Opened(network, config, run, loaded, split, accelerator, classes is not None)


def _used(data: Data) -> Preprocessing:
    """What images are made with, for a line that says so."""
    how = data.interpolation or "bilinear", data.crop_pct or 0.875, data.crop_mode or "center"
    return Preprocessing(data.image_size, data.mean, data.std, *how)
