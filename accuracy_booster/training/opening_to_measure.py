"""Open a network and the data to measure it on: those of a run, or any module and any data.

`evaluate`, `inspect` and the commands that measure begin with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from accuracy_booster.data import Data, class_names, sources
from accuracy_booster.data.batches import Loader
from accuracy_booster.data.dataset_source import dataset_source, is_dataset_name
from accuracy_booster.data.marks import marks_of
from accuracy_booster.errors import unknown
from accuracy_booster.exported.formats import is_exported
from accuracy_booster.models.input_conv import channels_of
from accuracy_booster.models.preprocessing import (
    Preprocessing,
    classes_of,
    preprocessing_of,
    size_and_normalisation,
)
from accuracy_booster.progress import note
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.file_network import FileNetwork
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_outputs import try_network
from accuracy_booster.training.opening_data import open_data
from accuracy_booster.training.own_objects import NOTHING, OwnObjects
from accuracy_booster.training.processes import check_processes_agree
from accuracy_booster.training.reopening_data import check_place, what_changed
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.train_config import MEASURED, SPLITS, TrainConfig
from accuracy_booster.training.train_result import TrainResult, place_of
from accuracy_booster.training.unreadable_images import check_readable

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Opened:
    """A network on its device, and a split of its data.

    Attributes:
        run: None for a module.
        knows_classes: the labels are numbers of the network's outputs.
        all_named: the caller gave the names of the outputs, so each has one.
    """

    network: nn.Module
    config: TrainConfig
    run: Run | None
    data: Data
    split: str
    accelerator: Accelerator
    knows_classes: bool
    all_named: bool = False

    @property
    def loader(self) -> Loader:
        """The batches of the split."""
        return self.data.loaders[self.split]

    def check_readable(self, unreadable: Sequence[str]) -> None:
        """Raise TrainingStopped if more images cannot be read than `bad_images` allows."""
        check_readable(unreadable, self.config.bad_images)

    def places(self, outputs: int) -> Sequence[int] | None:
        """The output of each class; None where they are in the same order.

        Args:
            outputs: how many the network has.

        Raises:
            ValueError: if the data have other classes than the network.
        """
        if (count := len(self.data.classes)) > outputs:
            raise ValueError(
                f"{self.data.name} has {count} classes, more than the head's {outputs}"
            )
        if self.all_named and count < outputs:
            raise ValueError(
                f"classes=... has {count} names, and the network has {outputs} outputs; give "
                f"{outputs} names, one for each output in their order"
            )
        if self.knows_classes:
            return None
        return class_names.outputs_of(self.data.classes, outputs, self.data.name)


@dataclass(frozen=True)
class _Given:
    """What the caller's `run` comes to.

    Attributes:
        own: data sets that the caller gave.
        classes: the names of the outputs; None where they are not known.
        loading: further arguments of `load_data`.
        own_data: the data are those that the run was trained on.
    """

    network: nn.Module
    config: TrainConfig
    run: Run | None = None
    classes: Sequence[str] | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    own_data: bool = False
    own: OwnObjects = NOTHING


def open_measured(
    run: str | Path | nn.Module | TrainResult,
    data: Any = None,
    *,
    split: str = "test",
    model: Any = None,
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
    run = place_of(run)
    if isinstance(run, (str, Path)) and is_exported(run):
        run = FileNetwork.open(run)
    if isinstance(run, nn.Module):
        if model is not None:
            raise ValueError("model=... is for a run's directory; the first argument is a module")
        given = _given_module(run, data, classes, options, split)
    elif not isinstance(run, (str, Path)):
        raise ValueError(f"expected a run's directory or a module, got {type(run).__name__}")
    else:
        if classes is not None:
            raise ValueError("classes=... is for a module; a run knows the names of its classes")
        given = _given_run(Path(run), data, options, split, model)
    network, config, opened_run = given.network, given.config, given.run
    accelerator = make_accelerator(config)
    begun_on = opened_run if given.own_data else None  # the run whose own data these are
    if begun_on is not None and split == "validation":
        _check_share(begun_on)
    # without a split of their own, validation images are held out of the training split
    splits = ("train",) if split == "validation" else (split,)
    how = {"splits": splits, "training": False, "classes": given.classes}
    loaded = open_data(config, given.own, **how, **given.loading)
    check_processes_agree(accelerator, config, loaded)
    if opened_run is None:
        note(_how_made(loaded, network, known="own" in given.loading))
    if begun_on is not None and (changed := what_changed(begun_on, config, loaded)):
        warnings.warn(changed, stacklevel=3)
    if begun_on is not None and split == "validation":
        _check_no_test_split(begun_on, loaded)
    if split not in loaded.loaders:
        raise ValueError(
            f"{loaded.name} has no validation split, and the run held none out; data with train/ "
            "and val/ alone have val/ as the test split (--split test)"
        )
    _check_channels(network, loaded)
    network.to(accelerator.device)
    if opened_run is not None and "image_size" in options:
        try_network(network.eval(), config.model, loaded.input_size, accelerator.device)
    knows_classes = given.classes is not None
    about = (knows_classes, classes is not None)
    return Opened(network, config, opened_run, loaded, split, accelerator, *about)


def _given_module(
    model: nn.Module,
    data: Any,
    classes: Sequence[str] | None,
    options: Mapping[str, Any],
    split: str,
) -> _Given:
    if classes is not None:
        class_names.check_names(classes)
    if data is None:
        kind = "an exported file" if isinstance(model, FileNetwork) else "a module"
        raise ValueError(f"which data? {kind} does not know; pass data=...")
    own = _for_split(NOTHING.with_data(data), split)
    config = TrainConfig("module", data=own.data_name or data).change(options)
    if (chans := _channels(model)) in (1, 3):  # images are made grey or colour for it
        config = config.change({"in_chans": chans})
    size = config.image_size if isinstance(config.image_size, tuple) else None
    made = preprocessing_of(model, size)
    loading = {"own": made} if made else {}
    classes = classes_of(model) if classes is None else classes
    return _Given(model, config, classes=classes, loading=loading, own=own)


def _for_split(own: OwnObjects, split: str) -> OwnObjects:
    """One data set alone as the split that is measured, and two or more as they are."""
    if own.data is None or set(own.data) != {"train"} or split == "validation":
        return own
    return replace(own, data={split: own.data["train"]})


def _given_run(path: Path, data: Any, options: Mapping[str, Any], split: str, model: Any) -> _Given:
    run, config = Run.open(path)
    network = load_network(run, config, NOTHING.of_run(model))
    own = NOTHING.with_data(data)
    if own.data is not None:
        own_data = _is_its_own(run, config, own)
        own = own if own_data else _for_split(own, split)
        config = config.change({"data": own.data_name})
    else:
        own_data = data is None or sources.full_name(str(data)) == sources.full_name(config.data)
        if data is None:
            check_place(run.path, config.data)
        elif not own_data:  # the columns of other data have other names
            config = config.change({"data": data, "image_column": None, "label_column": None})
    return _Given(
        network,
        config.change(options),
        run=run,
        classes=run.info["classes"],
        loading={"hold_out": run.hold_out},
        own_data=own_data,
        own=own,
    )


def _is_its_own(run: Run, config: TrainConfig, own: OwnObjects) -> bool:
    """Whether data sets are those that the run was trained on, which may hold out a share."""
    known = run.info.get("data") or {}
    data = own.data or {}
    if not is_dataset_name(config.data) or set(data) != set(known):
        return False
    columns = {name: getattr(config, name) for name in ("image_column", "label_column")}
    source = dataset_source(data, own.data_name, **columns)
    return all(marks_of(source.read(split)[0]) == known[split] for split in known)


def _check_share(run: Run) -> None:
    """Raise ValueError if the share that the run held out is its test split."""
    known = run.info.get("data") or {}  # the splits that were read
    if known and "test" not in known:
        raise ValueError(
            f"the run in {run.path} has no validation split: its data have no test split, so the "
            "share that --validation held out is its test split; give --split test"
        )


def _check_no_test_split(run: Run, data: Data) -> None:
    """Raise ValueError if the validation split that was read is the run's test split."""
    known = run.info.get("data") or {}
    if "validation" in known or "test" not in known or "validation" not in data.marks:
        return
    if not data.difference("validation", known["test"]):
        raise ValueError(
            f"the run in {run.path} has no validation split: its test images have no labels, so "
            "the validation split of its data is its test split; give --split test"
        )


def _channels(network: nn.Module) -> int | None:
    return network.channels if isinstance(network, FileNetwork) else channels_of(network)


def _check_channels(network: nn.Module, data: Data) -> None:
    chans = _channels(network)
    if chans is not None and chans != data.in_chans:
        raise ValueError(
            f"the network takes images of {chans} channels, {data.name} has {data.in_chans}"
        )


def _how_made(data: Data, network: nn.Module, *, known: bool) -> str:
    """A line on how the images are made for a module, which may say it (`known`) or not."""
    if known:
        source = "file says" if isinstance(network, FileNetwork) else "module was pretrained on"
        return f"images as the {source}: {_preprocessing_of(data)}"
    if data.interpolation is None:  # images of one size, which are not resized
        made = size_and_normalisation(data.image_size, data.mean, data.std)
    else:
        made = str(_preprocessing_of(data))
    return (
        f"images as ab.train makes those of {data.name}, since the module has no pretrained_cfg: "
        f"{made}; image_size=, mean= and std= change that"
    )


def _preprocessing_of(data: Data) -> Preprocessing:
    """How the images are made, for a line that says so."""
    how = data.interpolation or "bilinear", data.crop_pct or 0.875, data.crop_mode or "center"
    return Preprocessing(data.image_size, data.mean, data.std, *how)
