"""Everything that changes from step to step, and how a checkpoint holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accuracy_booster.training.checkpoint import Checkpoint
from accuracy_booster.training.run_config import RunConfig
from accuracy_booster.training.unreadable_images import UnreadableImages


@dataclass
class TrainerState:
    """The state of a training.

    With it, all that follows is a function of (seed, epoch, step): the order of the images, their
    augmentation, and the random states of torch, numpy and Python.

    Attributes:
        network: the network itself, without accelerate's wrapper.
        scaler: fp16's loss scaler, or None.
        sums: what the steps of the epoch have added up so far, of this process's images: float64
            [sums of the task], in which the order of additions hardly matters.
        unreadable: the images that could not be read so far.
        average: timm's moving average of the weights, or None. It is made once the initial weights
            are there.
        epoch, step: the next step is number `step` of `epoch`, both counted from 0.
        history: a row of numbers for each epoch that is over.
        begun: the plain values of the optimizer's groups before its first step.
        skipped: how many steps in a row fp16's loss scaling has skipped.
        seconds: how long the training took before this process resumed it.
    """

    network: nn.Module
    optimizer: Any
    scaler: Any
    sums: torch.Tensor
    unreadable: UnreadableImages
    average: Any = None
    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0
    begun: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self._plain_groups()

    @property
    def kept_network(self) -> nn.Module:
        """The network that is measured and saved: the moving average, if there is one."""
        return self.network if self.average is None else self.average.module

    def start_average(self, config: RunConfig) -> None:
        """Start the moving average of the weights, if the configuration wants one."""
        if config.ema:
            from timm.utils import ModelEmaV3

            self.average = ModelEmaV3(self.network, decay=config.ema)

    def next_epoch(self) -> None:
        """Go to the first step of the next epoch."""
        self.epoch, self.step, self.sums = self.epoch + 1, 0, torch.zeros_like(self.sums)

    def tensors(self, sums: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors of a checkpoint.

        Args:
            sums: those of all processes together.
        """
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.module.state_dict().items()}
        for i, name, value in self._optimizer_state():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
        for i, group in enumerate(self.optimizer.param_groups):
            own = {k: v for k, v in group.items() if isinstance(v, torch.Tensor)}
            tensors |= {f"group.{i}.{name}": value for name, value in own.items()}
        return {**tensors, "sums": sums}

    def values(self, seconds: float) -> dict[str, Any]:
        """The plain values of a checkpoint.

        Args:
            seconds: how long this process has trained.
        """
        numbers = [v for v in self._optimizer_state() if not isinstance(v[2], torch.Tensor)]
        pairs = zip(self.begun, self._plain_groups(), strict=True)
        groups = [{k: v for k, v in g.items() if v != old.get(k)} for old, g in pairs]
        return {
            "optimizer": {"state": numbers, "groups": groups},
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "unreadable": self.unreadable.reasons,
            "skipped": self.skipped,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "seconds": self.seconds + seconds,
        }

    def restore(self, saved: Checkpoint, *, takes_sums: bool) -> None:
        """Take over a checkpoint; a moving average must have been started before.

        Args:
            takes_sums: in one process alone, since the checkpoint holds the sums of all.

        Raises:
            ValueError: for a checkpoint of another network.
        """
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in saved.tensors.items():
            part, _, key = name.partition(".")
            parts.setdefault(part, {})[key] = tensor
        try:
            self.network.load_state_dict(parts["network"])
            if self.average is not None:
                self.average.module.load_state_dict(parts["average"])
        except (RuntimeError, KeyError) as e:
            reason = " ".join(str(e).split())[:300]
            raise ValueError(f"{saved.path} is of another network: {reason}") from e
        known = saved.values.get("optimizer", {})  # an older version, with SGD alone, has none
        self._restore_optimizer(parts.get("optimizer", {}), parts.get("group", {}), known)
        values = saved.values
        self.epoch, self.step = values["epoch"], values["step"]
        self.history, self.unreadable.reasons = values["history"], values["unreadable"]
        self.skipped, self.seconds = values["skipped"], values["seconds"]
        if takes_sums:
            self.sums = parts["sums"][""].to(self.sums.device)
        if values["scaler"] is not None and self.scaler is not None:
            self.scaler.load_state_dict(values["scaler"])

    def _restore_optimizer(
        self,
        tensors: dict[str, torch.Tensor],
        groups: dict[str, torch.Tensor],
        known: dict[str, Any],
    ) -> None:
        """Take over the optimizer's state.

        Args:
            tensors: by NUMBER_OF_THE_PARAMETER.NAME.
            groups: by NUMBER_OF_THE_GROUP.NAME: of optimizers that count the steps of a group.
            known: the plain values of `values`.
        """
        state: dict[Any, dict[str, Any]] = {}
        optimized = self._optimized()
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            parameter = optimized[int(index)]
            state.setdefault(parameter, {})[name] = self._placed(value, name, parameter)
        for index, name, number in known.get("state", []):
            state.setdefault(optimized[index], {})[name] = number
        for parameter, found in state.items():
            self.optimizer.state[parameter].update(found)
        own = self.optimizer.param_groups
        for group, values in zip(own, known.get("groups", []), strict=False):
            group.update(values)
        for key, value in groups.items():
            index, _, name = key.partition(".")
            own[int(index)][name] = value

    def _placed(self, value: torch.Tensor, name: str, parameter: nn.Parameter) -> torch.Tensor:
        """A tensor of the optimizer's state where the optimizer looks for it.

        A momentum has its parameter's shape, and gets its device and memory format. Numbers of
        steps stay on the CPU, unless a fused step counts them on the device.
        """
        if name == "step":
            fused = self.optimizer.param_groups[0].get("fused")
            return value.to(parameter.device) if fused else value
        if value.shape == parameter.shape:
            return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        return value.to(parameter.device)

    def _optimizer_state(self) -> list[tuple[int, str, Any]]:
        """(number of the parameter, name, value) of all that the optimizer keeps."""
        return [
            (i, name, value)
            for i, parameter in enumerate(self._optimized())
            for name, value in self.optimizer.state.get(parameter, {}).items()
        ]

    def _plain_groups(self) -> list[dict[str, Any]]:
        """What the optimizer's groups hold beside their parameters and rates, which are not state.

        A few optimizers count their steps here.
        """
        return [
            {k: v for k, v in g.items() if k != "lr" and isinstance(v, (bool, int, float))}
            for g in self.optimizer.param_groups
        ]

    def _optimized(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]
