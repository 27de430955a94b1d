"""`RunConfig`: the settings that the trainings of all tasks share, typed and checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from accuracy_booster.errors import shown, unknown
from accuracy_booster.training.run_rules import Rules as Rules
from accuracy_booster.training.run_rules import rules_of_all_tasks
from accuracy_booster.training.setting_types import check_types, is_finite
from accuracy_booster.training.yaml_settings import read_settings

Config = TypeVar("Config", bound="RunConfig")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings that the trainings of all tasks share.

    A task adds its own settings in a subclass, and describes itself in the class variables.

    Args:
        block: the gates' recipe: a name, a text such as "gap | dense(groups=C) | bn | sigmoid",
            or "none"
        init: auto, paper, or identity: the boosted network starts as what it was. auto is identity
            on trained weights, what the gates of `weights` started with, and otherwise paper
        gate_lr: learning rate of the gates; by default lr
        output: the run's directory; by default runs/MODEL-BLOCK-DATA-sSEED
        overwrite: replace a run that is already in the output directory
        checkpoint_minutes: time between checkpoints within an epoch; there is one after each epoch
        bad_images: unreadable images, of all splits, that are skipped before training stops
        epochs: passes over the training set; train --resume RUN --epochs N trains a run longer
        batch_size: images per step, of all processes together
        accumulate: parts into which a step's images are split, one after the other
        optimizer: sgd (torch's), adamw, or any other that timm's create_optimizer_v2 makes
        lr: learning rate
        momentum: of sgd; of adamw and others with two betas it is the first one
        nesterov: use Nesterov momentum (sgd)
        weight_decay: on all parameters but those of the next two
        norm_weight_decay: on the network's norms and biases; by default weight_decay
        gate_weight_decay: on the gates; by default weight_decay
        clip_grad: largest norm of the gradient; by default it is not clipped
        schedule: step (times gamma at each milestone) or cosine (to zero)
        milestones: shares of the epochs after which the rate drops (rounded up to whole epochs)
        gamma: factor of a drop
        warmup_epochs: epochs at the warm-up rate before the schedule's
        warmup_lr: learning rate of the warm-up, or with which it starts
        warmup: constant, or linear: from warmup_lr up to lr, step by step
        warmup_steps: instead of warm-up epochs, steps in which the rate rises from warmup_lr to
            lr; no more than the first epoch has
        ema: decay of a moving average of the weights, which is then what is measured and kept;
            0 is none
        seed: of the initial weights, the order of the images and their augmentation
        device: auto, cpu or cuda
        precision: fp32, bf16 or fp16
        skipped_steps: steps in a row that fp16's loss scaling may skip before training stops
        channels_last: keep the network in the channels-last memory format
        workers: processes that load images; those of a preset are at most as many as the cores
        eval_batch_size: images per batch when measuring
        log_with: where the learning curve goes beside metrics.csv: none, or names separated by
            commas: tensorboard (where it is installed), wandb, mlflow, or another of accelerate's
            trackers
    """

    task: ClassVar[str]  # in run.json
    command: ClassVar[str]  # that trains
    network_field: ClassVar[str]  # the field that names the network
    # the settings that say where the data are: they may change when a run is resumed
    places: ClassVar[tuple[str, ...]] = ("data",)

    block: str = "ab"
    data: str = "digits"
    init: str = "auto"
    pretrained: bool = False
    weights: str | None = None
    gate_lr: float | None = None
    output: str | None = None
    overwrite: bool = False
    checkpoint_minutes: float = 10.0
    bad_images: int = 100
    epochs: int = 200
    batch_size: int = 128
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    norm_weight_decay: float | None = None
    gate_weight_decay: float | None = None
    clip_grad: float | None = None
    schedule: str = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup_epochs: int = 0
    warmup_lr: float = 0.01
    warmup: str = "constant"
    warmup_steps: int = 0
    ema: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    skipped_steps: int = 20
    channels_last: bool = True
    workers: int = 0
    eval_batch_size: int = 256
    log_with: str = "tensorboard"

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Path):
                object.__setattr__(self, f.name, str(value))
            elif isinstance(value, list) and "tuple" in str(f.type):  # of YAML and JSON
                object.__setattr__(self, f.name, tuple(value))
            elif str(f.type).startswith("float") and type(value) is int and is_finite(value):
                object.__setattr__(self, f.name, float(value))  # 1 for 1.0
        if self.block is None:
            object.__setattr__(self, "block", "none")
        elif hasattr(self.block, "gates"):  # an ab.Recipe
            object.__setattr__(self, "block", str(self.block))
        check_types(self)
        for name, (holds, rule) in self.rules().items():
            if not holds:
                raise ValueError(f"{name}={shown(getattr(self, name))} must be {rule}")

    def rules(self) -> Rules:
        """What each setting must be beyond its type."""
        return rules_of_all_tasks(self)

    @property
    def network(self) -> str:
        """The name of the network."""
        return str(getattr(self, self.network_field))

    @property
    def least_images(self) -> int:
        """The fewest images that each part of a step may have: a batch norm needs two."""
        return 2

    @property
    def synchronised(self) -> bool:
        """Whether batch norms in training mode normalise over the images of all processes."""
        return False

    @classmethod
    def check_names(cls, given: Iterable[str]) -> None:
        """Raise ValueError for a name that is no option; it says the nearest one."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise unknown("option", name, known)

    def change(self: Config, given: Mapping[str, Any]) -> Config:
        """A copy with other values.

        Raises:
            ValueError: for a name that is no option (with the nearest), or a value out of range.
        """
        self.check_names(given)
        return replace(self, **given)

    @property
    def data_name(self) -> str:
        """The data set's name, or the last part of its path."""
        return os.path.basename(os.path.abspath(Path(self.data).expanduser()))

    def to_yaml(self) -> str:
        """The settings as YAML, one on a line and the network first; `from_yaml` reads it back."""
        first = sorted(fields(self), key=lambda f: bool(f.kw_only))
        values = {f.name: getattr(self, f.name) for f in first}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=2**20)

    def shown(self) -> dict[str, str]:
        """Name -> value as text, for every setting that is not None."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_yaml(cls: type[Config], text: str) -> Config:
        """The configuration of `to_yaml`'s text.

        Raises:
            ValueError: for a text that is no YAML, is too long or nested, or names no model; for a
                name that is no option, or a value out of range.
        """
        values = read_settings(text)
        name = cls.network_field
        if not isinstance(values.get(name), str):
            raise ValueError(f"the configuration names no {name}")
        cls.check_names(values)
        return cls(**values)

    @staticmethod
    def of_any_task(text: str) -> tuple[RunConfig, str]:
        """The shared settings, and the network's name, from the YAML of any task's configuration.

        Raises:
            ValueError: for a text that `to_yaml` did not write.
        """
        values = read_settings(text)
        name = next(iter(values.values()), "")  # `to_yaml` writes it first
        known = {f.name for f in fields(RunConfig)}
        return _OfAnyTask(**{k: v for k, v in values.items() if k in known}), str(name)


class _OfAnyTask(RunConfig):
    """The shared settings of a run in a list; its own task has checked them."""

    @property
    def least_images(self) -> int:
        return 1
