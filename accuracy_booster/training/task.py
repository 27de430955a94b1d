"""What a training is of: its network, data, loss and measure. The rest is the trainer's.

`training.classification` and `detection.task` hold the tasks.
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
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.run_directory import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

Forward = Callable[..., Any]
OnBatch = Callable[[Any], None]
Given = TypeVar("Given", bound="Task")


class TrainingData(Protocol):
    """What the trainer asks of data."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def loaders(self) -> dict[str, Loader]:
        """ "train", "test" and perhaps "validation"."""

    @property
    def marks(self) -> dict[str, dict[str, Any]]:
        """Of each split that was read, plain values that tell it from other data."""

    @property
    def unreadable(self) -> list[str]:
        """Images that were left out when the data were opened."""

    def difference(self, split: str, known: Any) -> str:
        """How a split differs from the one whose marks are known, or ""."""


class Measured(Protocol):
    """What measuring a split gives."""

    def to_dict(self) -> dict[str, Any]: ...


class Task(ABC):
    """A task with its configuration filled in and its data open."""

    config_type: ClassVar[type[RunConfig]]
    sums: ClassVar[int]  # values that a step adds up over an epoch; the last one counts images

    config: Any
    data: TrainingData

    # --- begun, and gone on with

    @classmethod
    @abstractmethod
    def check(cls, config: Any) -> None:
        """Raise ValueError for what is wrong in a configuration, before data are read."""

    @classmethod
    @abstractmethod
    def begin(cls: type[Given], config: Any) -> Given:
        """The task of a new run: its data are opened and decide what the configuration left out."""

    @classmethod
    @abstractmethod
    def reopen(cls: type[Given], run: Run, config: Any) -> Given:
        """The task of a run that goes on.

        Raises:
            ValueError: if the data are not where the configuration says, or are other data.
        """

    @classmethod
    @abstractmethod
    def place(cls, config: Any) -> Any:
        """The configuration with absolute paths of its data, which name them from everywhere."""

    @classmethod
    @abstractmethod
    def read_metrics(cls, values: Mapping[str, Any]) -> Any:
        """What `to_dict` of the metrics wrote."""

    @classmethod
    @abstractmethod
    def default_output(cls, config: Any) -> Path:
        """Where a run goes that names no output."""

    def info(self) -> dict[str, Any]:
        """What run.json keeps of the data."""
        return {"classes": list(self.data.classes), "data": self.data.marks}

    # --- its network

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, fresh or with the weights of the library that the configuration names."""

    @abstractmethod
    def start_from_weights(self, network: nn.Module) -> str:
        """Load the configuration's `weights` into the network; returns a line on what came."""

    def prepare(self, network: nn.Module, say: Callable[[str], None]) -> None:
        """Make the network of a new run ready to train, once its weights are there."""
        return None

    def keeps_head(self, network: nn.Module) -> bool:
        """Whether a head with trained weights stays as it is. It is asked once in a run's life."""
        return False

    @abstractmethod
    def freeze(self, network: nn.Module, *, keeps_head: bool) -> list[nn.Module]:
        """Freeze what the configuration says; returns the norms that then stay in eval mode."""

    def describe(self, network: nn.Module) -> Sequence[str]:
        """Lines on what is trained, told before the first step."""
        return ()

    @abstractmethod
    def try_network(self, network: nn.Module, device: torch.device) -> None:
        """Try a forward pass in training mode; buffers may change.

        Raises:
            ValueError: if the network cannot take such images, or gives what cannot be trained.
        """

    # --- a step, and a measure

    @abstractmethod
    def loss(self, forward: Forward, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of a batch, and what it adds to the epoch's sums: float64 [sums]."""

    @abstractmethod
    def measure(
        self, network: nn.Module, split: str, accelerator: Accelerator, on_batch: OnBatch
    ) -> Any:
        """Measure a split; all processes get the same."""

    @abstractmethod
    def trained(self, sums: Sequence[float]) -> dict[str, float]:
        """What an epoch's sums come to, for the learning curve: train_loss and more."""

    @abstractmethod
    def curve(self, metrics: Any) -> dict[str, float]:
        """What the learning curve shows of a measured split."""

    @abstractmethod
    def told(self, metrics: Any) -> str:
        """The same for a person, in a few words."""
