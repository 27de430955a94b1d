"""`Classification`: the task that is trained with cross-entropy and measured by top-1 and top-5."""

# N images of a batch, C channels, H W space

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from accuracy_booster.blocks.gate_norm import small_batches_allowed
from accuracy_booster.data import Data, normalise
from accuracy_booster.data.auto_augment import AutoAugment
from accuracy_booster.data.batches import Batch
from accuracy_booster.progress import note
from accuracy_booster.training import initial_weights
from accuracy_booster.training.advice import advice
from accuracy_booster.training.freezing import freeze
from accuracy_booster.training.losses import balanced_weights, cross_entropy
from accuracy_booster.training.measuring import Evaluation, Metrics, measure
from accuracy_booster.training.mixing import make_erasing, make_mixing
from accuracy_booster.training.network_building import (
    build_network,
    check_description,
    check_given,
    check_network_and_block,
    description_of,
)
from accuracy_booster.training.network_outputs import split_outputs, try_network
from accuracy_booster.training.opening_data import (
    fill_in,
    open_data_of_new_run,
    with_absolute_paths,
)
from accuracy_booster.training.output_directory import base_dir
from accuracy_booster.training.own_objects import NOTHING, OwnObjects
from accuracy_booster.training.reopening_data import reopen
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import REPORT
from accuracy_booster.training.task import Forward, OnBatch, Task
from accuracy_booster.training.train_config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


class Classification(Task):
    """Images [N, C, H, W] with one label each."""

    config_type: ClassVar[type[TrainConfig]] = TrainConfig
    best_by: ClassVar[str] = "top1"
    sums: ClassVar[int] = 3  # loss, hits, images

    config: TrainConfig
    data: Data

    def __init__(
        self,
        config: TrainConfig,
        data: Data,
        own: OwnObjects = NOTHING,
        known_network: Mapping[str, Any] | None = None,
    ):
        """Args: `own` as for `begin`; `known_network`: what run.json says of the network in it."""
        self.config, self.data, self.own = config, data, own
        self.known_network, self.network_info = known_network, dict[str, Any]()
        self.erasing, self.mixing = make_erasing(config), make_mixing(config)
        self.weights: torch.Tensor | None = None  # of the classes in the loss
        if config.class_weights == "balanced":
            labels = data.loaders["train"].dataset.images.labels
            self.weights = balanced_weights(labels, config.num_classes or len(data.classes))

    @classmethod
    def check(cls, config: TrainConfig, own: OwnObjects = NOTHING) -> None:
        check_network_and_block(config, own)
        if config.auto_augment is not None:
            AutoAugment(config.auto_augment, (32, 32), (0.5,), "bilinear")

    @classmethod
    def begin(cls, config: TrainConfig, own: OwnObjects = NOTHING) -> Classification:
        data = open_data_of_new_run(config, own)
        task = cls(fill_in(config, data, own), data, own)
        for line in advice(task.config, data, trained=own.trained):
            note(line)
        return task

    @classmethod
    def reopen(cls, run: Run, config: TrainConfig, own: OwnObjects = NOTHING) -> Classification:
        check_given(run, config, own)
        return cls(config, reopen(run, config, own), own, run.info.get("network"))

    @classmethod
    def place(cls, config: TrainConfig) -> TrainConfig:
        return with_absolute_paths(config)

    @classmethod
    def read_metrics(cls, values: Mapping[str, Any]) -> Metrics:
        return Metrics(**{k: v for k, v in values.items() if not k.endswith("error")})

    @classmethod
    def default_output(cls, config: TrainConfig) -> Path:
        return base_dir(config)

    def info(self) -> dict[str, Any]:
        network = {"network": self.network_info} if self.network_info else {}
        return {**super().info(), "hold_out": "names", "whole": self.data.whole, **network}

    def build(self) -> nn.Module:
        pretrained, new = self.config.pretrained, self.known_network is None
        network = build_network(self.config, self.own, pretrained=pretrained, say=new)
        if self.own.network is not None:
            self.network_info = {**description_of(network), "trained": self.own.trained}
            if self.known_network is not None:
                check_description(network, self.known_network, self.config.output)
        return network

    def start_from_weights(self, network: nn.Module) -> str:
        return initial_weights.start_from_weights(network, self.config)

    def keeps_head(self, network: nn.Module) -> bool:
        frozen = self.config.freeze != "none"
        return frozen and initial_weights.keeps_head(
            network, self.config, self.data.classes, self.own.network
        )

    def can_already(self, network: nn.Module) -> bool:
        config, own = self.config, self.own.network
        if not (config.pretrained or config.weights or self.own.trained):
            return False
        try:
            return initial_weights.keeps_head(network, config, self.data.classes, own)
        except ValueError:  # a run that is resumed does not need its file of weights any more
            return False

    def freeze(self, network: nn.Module, *, keeps_head: bool) -> list[nn.Module]:
        return freeze(network, self.config, keeps_head=keeps_head)

    def try_network(self, network: nn.Module, device: torch.device) -> None:
        config = self.config
        with small_batches_allowed():
            outputs = try_network(network, config.model, config.input_size, device)
        if outputs < (config.num_classes or 0):
            raise ValueError(
                f"{config.model} gives {outputs} logits, fewer than num_classes="
                f"{config.num_classes}"
            )

    def loss(self, forward: Forward, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        labels = batch.labels
        x, targets = normalise(batch.images, self.data.mean, self.data.std), labels
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.erasing is not None:
            x = self.erasing(x)
        if self.mixing is not None:
            x, targets = self.mixing(x, labels)
        logits, others = split_outputs(forward(x))
        logits, smoothing = logits.float(), self.config.label_smoothing
        if self.weights is not None:
            self.weights = self.weights.to(logits.device)
        loss = cross_entropy(logits, targets, self.weights, smoothing=smoothing)
        for weight, other in others:
            own = cross_entropy(other.float(), targets, self.weights, smoothing=smoothing)
            loss = loss + weight * own
        hits = (logits.detach().argmax(1) == labels).sum()
        count = hits.new_tensor(len(labels))
        return loss, torch.stack([loss.detach().double() * len(labels), hits.double(), count])

    def measure(
        self, network: nn.Module, split: str, accelerator: Accelerator, on_batch: OnBatch
    ) -> Evaluation:
        return measure(network, self.data.loaders[split], self.data, accelerator, on_batch)

    def trained(self, sums: Sequence[float]) -> dict[str, float]:
        loss, hits, seen = sums
        return {"train_loss": loss / seen, "train_top1": 100 * hits / seen}

    def curve(self, metrics: Metrics) -> dict[str, float]:
        return {"loss": metrics.loss, "top1": metrics.top1, "top5": metrics.top5}

    def told(self, metrics: Metrics) -> str:
        return f"top-1 {metrics.top1:.2f} %"

    def write_report(self, run: Run, test: Evaluation) -> None:
        from accuracy_booster.training.run_report import write_run_report

        run.check_ours()
        if line := test.answers.all_as_one():
            note(line)
        write_run_report(
            run.path / REPORT,
            test,
            self.data.loaders["test"].dataset.images,
            config=self.config,
            info=run.info,
            history=run.history(),
        )
