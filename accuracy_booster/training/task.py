"""`Task`: what differs between trainings of one kind and another: network, data, loss, metrics.

`training.classification` and `detection.task` hold the two tasks. The trainer does the rest.
"""

# N images of a batch

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch
from torch import nn

from accuracy_booster.data.batches import Loader
from accuracy_booster.training.own_objects import NOTHING, OwnObjects
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

Forward = Callable[..., Any]
OnBatch = Callable[[Any], None]
Given = TypeVar("Given", bound="Task")


class TrainingData(Protocol):
    """The data of a task, as the trainer uses them."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def loaders(self) -> dict[str, Loader]:
        """ "train", "test" and perhaps "validation"."""

    @property
    def marks(self) -> dict[str, dict[str, Any]]:
        """For each split that was read, plain values by which it is told from other data."""

    @property
    def unreadable(self) -> list[str]:
        """Images that were left out when the data were opened."""

    def difference(self, split: str, known: Any) -> str:
        """How a split differs from the one that had the marks `known`, or ""."""


class Task(ABC):
    """A task with its completed configuration and its open data.

    Attributes:
        config_type: the type of its configuration.
        best_by: the metric by which epochs are compared on a validation split: the key of a column
            of `curve`; higher is better.
        sums: how many values a step adds up over an epoch; the last one counts images.
        config: the configuration.
        data: the open data.
    """

    config_type: ClassVar[type[RunConfig]]
    best_by: ClassVar[str] = ""
    sums: ClassVar[int]

    config: Any
    data: TrainingData

    # --- started, and resumed

    @classmethod
    @abstractmethod
    def check(cls, config: Any, own: OwnObjects = NOTHING) -> None:
        """Raise ValueError for what is wrong in a configuration, before data are read."""

    @classmethod
    @abstractmethod
    def begin(cls: type[Given], config: Any, own: OwnObjects = NOTHING) -> Given:
        """The task of a new run: opens its data, which complete the configuration.

        Args:
            own: the network and the data that the caller gives as objects.
        """

    @classmethod
    @abstractmethod
    def reopen(cls: type[Given], run: Run, config: Any, own: OwnObjects = NOTHING) -> Given:
        """The task of a run that is resumed; `own` as for `begin`.

        Raises:
            ValueError: if the data are not where the configuration says, or are other data.
        """

    @classmethod
    @abstractmethod
    def place(cls, config: Any) -> Any:
        """The configuration with absolute paths of its data: they hold in every directory."""

    @classmethod
    @abstractmethod
    def read_metrics(cls, values: Mapping[str, Any]) -> Any:
        """The metrics whose `to_dict` gave these values."""

    @classmethod
    @abstractmethod
    def default_output(cls, config: Any) -> Path:
        """Where a run goes that names no output."""

    def info(self) -> dict[str, Any]:
        """What run.json holds of the data."""
        return {"classes": list(self.data.classes), "data": self.data.marks}

    # --- its network

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, fresh or with the weights of the library that the configuration names."""

    @abstractmethod
    def start_from_weights(self, network: nn.Module) -> str:
        """Load the configuration's `weights` into the network; returns a line on it."""

    def prepare(self, network: nn.Module, say: Callable[[str], None]) -> None:
        """Make the network of a new run ready to train, once its weights are there."""
        return None

    def keeps_head(self, network: nn.Module) -> bool:
        """Whether a trained head stays as it is in a frozen network; asked once in a run's life."""
        return False

    def can_already(self, network: nn.Module) -> bool:
        """Whether a new network comes with weights, and a head, for just this task."""
        return False

    @abstractmethod
    def freeze(self, network: nn.Module, *, keeps_head: bool) -> list[nn.Module]:
        """Freeze what the configuration says; returns the norms that stay in eval mode."""

    def describe(self, network: nn.Module) -> Sequence[str]:
        """Lines on what is trained, which are printed before the first step."""
        return ()

    @abstractmethod
    def try_network(self, network: nn.Module, device: torch.device) -> None:
        """Try a forward pass in training mode; buffers may change.

        Raises:
            ValueError: if the network cannot take such images, or gives what cannot be trained.
        """

    # --- a step, and a measurement

    @abstractmethod
    def loss(self, forward: Forward, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of a batch, and what the batch adds to the epoch's sums: float64 [sums]."""

    @abstractmethod
    def measure(
        self, network: nn.Module, split: str, accelerator: Accelerator, on_batch: OnBatch
    ) -> Any:
        """The metrics of a split, the same in all processes; `on_batch` is called per batch."""

    @abstractmethod
    def trained(self, sums: Sequence[float]) -> dict[str, float]:
        """Columns of the learning curve from an epoch's sums: train_loss and more."""

    @abstractmethod
    def curve(self, metrics: Any) -> dict[str, float]:
        """Columns of the learning curve from the metrics of a split."""

    @abstractmethod
    def told(self, metrics: Any) -> str:
        """The metrics in a few words, for the display."""

    def write_report(self, run: Run, test: Any) -> None:
        """Write a page of a run that has ended beside its other files; by default none.

        Args:
            test: the metrics that `measure` gave for the test split.
        """
        return None
