"""Detection as a task of the trainer: Faster R-CNN's four losses, and COCO's average precision."""

# N images of a batch, C channels, H W space

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from accuracy_booster.blocks.gate_norm import small_batches_allowed
from accuracy_booster.detection.batches import DetectionBatch
from accuracy_booster.detection.building import build_detector, open_data
from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.detection.gate_statistics import estimate_gate_norms
from accuracy_booster.detection.loaders import DetectionData
from accuracy_booster.detection.measuring import measure
from accuracy_booster.detection.metrics import DetectionMetrics
from accuracy_booster.detection.resolving import fill_in, with_absolute_paths
from accuracy_booster.detection.trainable_parts import summary
from accuracy_booster.detection.weights import start_from_weights
from accuracy_booster.models.own_networks import is_own
from accuracy_booster.progress import note
from accuracy_booster.surgery import attached
from accuracy_booster.training.network_building import check_network_and_block
from accuracy_booster.training.output_directory import base_dir
from accuracy_booster.training.own_objects import NOTHING, OwnObjects
from accuracy_booster.training.reopening_data import check_same
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.task import Forward, OnBatch, Task

if TYPE_CHECKING:
    from accelerate import Accelerator

# torchvision's names of the losses: two of the box head, two of the region proposals
LOSSES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
ESTIMATED_ON = 128  # training images on which the statistics of new gates are measured
TRIED = 128  # the sides in pixels of the blank images that a backbone is tried on


class Detection(Task):
    """The training of a detector on images of any size, with boxes and their classes.

    Attributes:
        gates_are_new: whether the gates have no trained weights, so that their statistics are
            measured first.
    """

    config_type: ClassVar[type[DetectConfig]] = DetectConfig
    sums: ClassVar[int] = len(LOSSES) + 1  # the losses, and the number of images

    config: DetectConfig
    data: DetectionData

    def __init__(self, config: DetectConfig, data: DetectionData):
        self.config, self.data = config, data
        self.gates_are_new = True

    @classmethod
    def check(cls, config: DetectConfig, own: OwnObjects = NOTHING) -> None:
        if is_own(config.backbone):
            raise ValueError(
                f"backbone={config.backbone!r} is of your own code, and detect train makes its "
                "network by name (accuracy-booster models); in Python: "
                "ab.detection.faster_rcnn(module, ...)"
            )
        check_network_and_block(config)

    @classmethod
    def begin(cls, config: DetectConfig, own: OwnObjects = NOTHING) -> Detection:
        data = open_data(config)
        for line in data.notes:
            note(line)
        if not data.images["test"].split.with_targets().any():
            note("val: no image has an object that counts, so there is no AP to measure")
        return cls(fill_in(config, data), data)

    @classmethod
    def reopen(cls, run: Run, config: DetectConfig, own: OwnObjects = NOTHING) -> Detection:
        data = open_data(config, classes=run.info["classes"])
        check_same(run, config, data)
        return cls(config, data)

    @classmethod
    def place(cls, config: DetectConfig) -> DetectConfig:
        return with_absolute_paths(config)

    @classmethod
    def read_metrics(cls, values: Mapping[str, Any]) -> DetectionMetrics:
        return DetectionMetrics(**values)

    @classmethod
    def default_output(cls, config: DetectConfig) -> Path:
        place = base_dir(config)
        return place.with_name(f"fasterrcnn-{config.head}-{place.name}")

    def info(self) -> dict[str, Any]:
        return {**super().info(), "category_ids": list(self.data.category_ids)}

    def build(self) -> nn.Module:
        config = self.config
        return build_detector(
            config, pretrained=config.pretrained, filled=config.weights is not None
        )

    def start_from_weights(self, network: nn.Module) -> str:
        line, self.gates_are_new = start_from_weights(network, self.config, self.data.classes)
        return line

    def prepare(self, network: nn.Module, say: Callable[[str], None]) -> None:
        gates = attached(network)
        if not gates or not self.gates_are_new:
            return
        fixed = [g for g in gates.values() if not any(p.requires_grad for p in g.parameters())]
        if fixed:
            say(
                f"{len(fixed)} of {len(gates)} new gates are in layers that are not trained, and "
                "stay as they start; --gates_of_frozen_layers trained lets them learn, "
                "--trainable_layers 5 trains all layers"
            )
        if self.config.norms != "frozen":
            return
        loader = self.data.loaders["train"]
        count = -(-ESTIMATED_ON // loader.batch_size)
        device = next(network.parameters()).device
        # the same images in every process, so that the statistics are the same
        batches = list(itertools.islice(loader.batches(0, device=device), count))
        for batch in batches:
            batch.check_trainable()
        images = sum(map(len, batches))
        say(f"taking the statistics of {len(gates)} new gates from {images} training images")
        estimate_gate_norms(network, batches)

    def freeze(self, network: nn.Module, *, keeps_head: bool) -> list[nn.Module]:
        return []  # `build_detector` has frozen everything, and the detector keeps its norms frozen

    def describe(self, network: nn.Module) -> Sequence[str]:
        return summary(network)

    def try_network(self, network: nn.Module, device: torch.device) -> None:
        backbone: Any = network.get_submodule("backbone")
        try:
            with torch.no_grad(), torch.random.fork_rng(), small_batches_allowed():
                backbone(torch.zeros(2, 3, TRIED, TRIED, device=device))
        except (RuntimeError, AssertionError) as e:
            if isinstance(e, torch.OutOfMemoryError):
                raise
            reason = " ".join(str(e).split())[:200]
            raise ValueError(
                f"{self.config.backbone} cannot take images of 3 x {TRIED} x {TRIED} ({reason}); "
                "give another backbone"
            ) from e

    def loss(self, forward: Forward, batch: DetectionBatch) -> tuple[torch.Tensor, torch.Tensor]:
        images = [image.float() / 255 for image in batch.images]
        targets = [{name: target[name] for name in ("boxes", "labels")} for target in batch.targets]
        losses = forward(images, targets)
        parts = torch.stack([losses[name].float() for name in LOSSES])
        sums = torch.cat([parts.detach().double() * len(batch), parts.new_tensor([len(batch)])])
        return parts.sum(), sums

    def measure(
        self, network: nn.Module, split: str, accelerator: Accelerator, on_batch: OnBatch
    ) -> DetectionMetrics:
        loader = self.data.loaders[split]
        most = self.config.box_detections_per_img
        return measure(
            *(network, loader, self.data, split, accelerator, on_batch), max_detections=most
        )

    def trained(self, sums: Sequence[float]) -> dict[str, float]:
        *losses, count = sums
        means = {f"train_{name}": loss / count for name, loss in zip(LOSSES, losses, strict=True)}
        return {"train_loss": sum(means.values()), **means}

    def curve(self, metrics: DetectionMetrics) -> dict[str, float]:
        values = metrics.to_dict()
        return {name: _or_nan(values[name]) for name in ("ap", "ap50", "ap75", "ar100")}

    def told(self, metrics: DetectionMetrics) -> str:
        return f"AP {_or_nan(metrics.ap):.1f} %, AP50 {_or_nan(metrics.ap50):.1f} %"


def _or_nan(value: float | None) -> float:
    """A number of COCO, or NaN where no object counts for it."""
    return float("nan") if value is None else value
