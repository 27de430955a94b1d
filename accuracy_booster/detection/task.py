"""The task of detection: Faster R-CNN's four losses, and COCO's average precision."""

# N images of a batch, C channels, H W space

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from accuracy_booster.blocks.gate_norm import small_batches_allowed
from accuracy_booster.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from accuracy_booster.detection.batches import DetectionBatch
from accuracy_booster.detection.config import LR_PER_IMAGE, PLACES, DetectConfig
from accuracy_booster.detection.detector import faster_rcnn
from accuracy_booster.detection.freezing import summary
from accuracy_booster.detection.loaders import DetectionData, load_coco
from accuracy_booster.detection.measuring import measure
from accuracy_booster.detection.metrics import DetectionMetrics
from accuracy_booster.detection.norms import estimate_gate_norms
from accuracy_booster.detection.weights import start_from_weights
from accuracy_booster.models.preprocessing import pretrained_preprocessing
from accuracy_booster.progress import note
from accuracy_booster.surgery import attached
from accuracy_booster.training.initial_weights import decide_start, run_of
from accuracy_booster.training.network_building import check_network_and_block
from accuracy_booster.training.output_directory import base_dir
from accuracy_booster.training.reopening_data import check_same
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.task import Forward, OnBatch, Task
from accuracy_booster.training.train_config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

# torchvision's names of the losses: of the box head and of the region proposals
LOSSES = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
KINDS = (TrainConfig, DetectConfig)  # of the runs that a detector may start from
ESTIMATED_ON = 128  # training images from which new gates' statistics are taken
TRIED = 128  # pixels of the blank images on which a backbone is tried


class Detection(Task):
    """Images of any size with boxes and their classes."""

    config_type: ClassVar[type[DetectConfig]] = DetectConfig
    sums: ClassVar[int] = len(LOSSES) + 1  # the losses, images

    config: DetectConfig
    data: DetectionData

    def __init__(self, config: DetectConfig, data: DetectionData):
        self.config, self.data = config, data
        self.gates_are_new = True

    @classmethod
    def check(cls, config: DetectConfig) -> None:
        check_network_and_block(config)

    @classmethod
    def begin(cls, config: DetectConfig) -> Detection:
        data = open_data(config)
        for line in data.notes:
            note(line)
        if not data.images["test"].split.with_targets().any():
            note("val: no image has an object that counts, so there is no AP to measure")
        return cls(fill_in(config, data), data)

    @classmethod
    def reopen(cls, run: Run, config: DetectConfig) -> Detection:
        data = open_data(config, classes=run.info["classes"])
        check_same(run, config, data)
        return cls(config, data)

    @classmethod
    def place(cls, config: DetectConfig) -> DetectConfig:
        given = {name: getattr(config, name) for name in config.places}
        return config.change(
            {n: os.path.abspath(Path(p).expanduser()) for n, p in given.items() if p is not None}
        )

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
        return build(config, pretrained=config.pretrained, filled=config.weights is not None)

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
        # the same images in every process
        batches = list(itertools.islice(loader.batches(0, device=device), count))
        for batch in batches:
            batch.check_trainable()
        images = sum(map(len, batches))
        say(f"taking the statistics of {len(gates)} new gates from {images} training images")
        estimate_gate_norms(network, batches)

    def freeze(self, network: nn.Module, *, keeps_head: bool) -> list[nn.Module]:
        return []  # `build` froze what is to be frozen, and the detector keeps its norms so

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
    return float("nan") if value is None else value


def open_data(config: DetectConfig, **more: Any) -> DetectionData:
    """The data that a configuration names; `more` are further arguments of `load_coco`."""
    names = (
        *("batch_size", "eval_batch_size", "augment", "empty_images", "bad_annotations"),
        *("seed", "workers", *PLACES),
    )
    given = {name: getattr(config, name) for name in names}
    return load_coco(config.data, **{**given, **more})


def fill_in(config: DetectConfig, data: DetectionData) -> DetectConfig:
    """The configuration with what the data and the start decide: it repeats the run as it is.

    Raises:
        ValueError: for classes that do not fit it, more missing images than `bad_images` allows, or
            weights that cannot be read.
    """
    data.check_trainable()
    if (count := len(data.missing)) > config.bad_images:
        raise ValueError(
            f"{count:,} image files of {data.name} are not there, more than "
            f"bad_images={config.bad_images}, the first {data.missing[0]}; put them there, or "
            "allow more"
        )
    config = Detection.place(decide_start(config, KINDS))
    classes = len(data.classes)
    if config.num_classes not in (None, classes):
        raise ValueError(f"num_classes={config.num_classes}, but {data.name} has {classes}")
    trained = config.pretrained or config.weights is not None
    mean, std = _preprocessing(config)
    batch = data.loaders["train"].batch_size  # no larger than the training set
    rate = config.lr
    if batch < config.batch_size:
        own = rate == LR_PER_IMAGE * config.batch_size  # the default, which goes with the batch
        rate = LR_PER_IMAGE * batch if own else rate
        note(f"batch_size={batch}, not {config.batch_size}: there are no more training images")
    norms, layers = config.norms, config.trainable_layers
    if norms == "auto":
        norms = "frozen" if trained else "normal"
    if layers is None:
        layers = 3 if trained else 5
    config = config.change(
        {
            **{"num_classes": classes, "norms": norms, "trainable_layers": layers},
            "image_mean": config.image_mean or mean,
            "image_std": config.image_std or std,
            **{"batch_size": batch, "lr": rate},
            "accumulate": config.accumulate if batch == config.batch_size else 1,
        }
    )
    if config.norms == "frozen" and not trained:
        note(
            "norms=frozen, but the backbone starts from random weights: the running statistics of "
            "its norms stay 0 and 1; norms=normal learns them"
        )
    return config


def _preprocessing(config: DetectConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels, as the backbone's weights were trained on."""
    found = None if config.weights is None else run_of(config.weights, KINDS)
    if found is not None:
        begun = found[1]
        if isinstance(begun, DetectConfig):
            return begun.image_mean or IMAGENET_MEAN, begun.image_std or IMAGENET_STD
        return begun.mean or IMAGENET_MEAN, begun.std or IMAGENET_STD
    own = pretrained_preprocessing(config.backbone) if config.pretrained else None
    return (IMAGENET_MEAN, IMAGENET_STD) if own is None else (own.mean, own.std)


def build(config: DetectConfig, *, pretrained: bool = False, filled: bool = False) -> nn.Module:
    """The detector of a resolved configuration, in its memory format.

    Args:
        filled: weights will be loaded into it, so its own are nothing to warn of.
    """
    names = (
        *("head", "trainable_layers", "gates_of_frozen_layers", "norms", "min_size", "max_size"),
        *("image_mean", "image_std", "anchor_sizes"),
        *("rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test", "box_batch_size_per_image"),
        *("box_score_thresh", "box_detections_per_img"),
    )
    with warnings.catch_warnings():
        if filled:
            warnings.filterwarnings("ignore", ".*weight (is )?zero")
        network = faster_rcnn(
            config.backbone,
            block=None if config.block == "none" else config.block,
            init="identity" if config.block != "none" and config.init == "identity" else "paper",
            num_classes=(config.num_classes or 0) + 1,
            pretrained=pretrained,
            **{name: getattr(config, name) for name in names},
        )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return network.to(memory_format=layout)
