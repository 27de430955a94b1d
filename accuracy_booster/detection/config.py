"""`DetectConfig`: the configuration of a training of Faster R-CNN, its defaults and its rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from accuracy_booster.detection.choices import AUGMENTS, EMPTY_IMAGES, GATES, HEADS, NORMS
from accuracy_booster.training.run_config import Rules, RunConfig
from accuracy_booster.training.setting_types import MAX_SIDE

# fields with paths, beside `data`
PATH_FIELDS = ("train_images", "train_annotations", "val_images", "val_annotations")
# fields that may be changed when a finished run is measured
MEASURED = (
    *("eval_batch_size", "device", "precision", "workers", "bad_images", "bad_annotations"),
    *("min_size", "max_size", "box_score_thresh", "box_detections_per_img", *PATH_FIELDS),
)
LR_PER_IMAGE = 0.02 / 16  # learning rate per image of a step, as in Detectron and torchvision


@dataclass(frozen=True, kw_only=True)
class DetectConfig(RunConfig):
    """A training of Faster R-CNN. The defaults are torchvision's, for two images per step.

    Args:
        backbone: the classification network (accuracy-booster models) that gives the feature maps
        head: fpn (a feature pyramid), or c4 (one map; the last stage is the head: the paper's
            baseline)
        data: a directory in COCO's format: annotations/instances_train*.json and _val*.json beside
            folders of images, or train/ and valid/ with _annotations.coco.json in them
        train_images: the folder of the training images, where it cannot be told
        train_annotations: their JSON file, where it cannot be told
        val_images: the folder of the images to measure on, where it cannot be told
        val_annotations: their JSON file, where it cannot be told
        pretrained: start from the backbone's weights of timm or torchvision
        weights: start from a run of train (its network is the backbone), from a file of weights of
            the backbone, or from a run of detect train. A head for other classes starts anew
        output: the run's directory; by default runs/fasterrcnn-HEAD-BACKBONE-BLOCK-DATA-sSEED
        batch_size: images per step, of all processes together
        eval_batch_size: images per batch when measuring; images of one batch are padded to one
            size, which changes the numbers a little
        lr: learning rate; by default 0.00125 for each image of a step
        norms: the backbone's batch norms and those of its gates. frozen uses their running
            statistics, synchronised takes the moments of all processes together, normal those of
            each process: with two images per process a gate's norm then sees two values per
            channel, which is noise. auto is frozen where the backbone starts from trained weights,
            and normal otherwise. New gates' statistics are taken from training images first
        trainable_layers: how many of the backbone's layers are trained, from the last one, of 5
            (four stages and the stem); by default 3 where it starts from trained weights, and
            otherwise 5
        gates_of_frozen_layers: frozen, or trained: the gates in layers that are not trained
        min_size: shorter edge to which images are resized, in pixels; several for training, one of
            which is drawn for each image
        max_size: longer edge that they may have then
        image_mean: per channel, of pixels in [0, 1]; by default the backbone's own, or ImageNet's
        image_std: as image_mean
        anchor_sizes: edges of the anchors in pixels, the finest map's first: as many for each map,
            and any number for the one map of c4; by default as many as reach 512, which are
            32,64,128,256,512 for a ResNet's maps
        augment: flip, multiscale, lsj (large-scale jitter), ssd (colours, crops and zooms), or none
        empty_images: drop, or keep: training images without objects, which are then background
        bad_annotations: faulty annotations of a split that are skipped before training stops: of no
            image, of no category, of no area
        rpn_post_nms_top_n_train: proposals per image that training keeps
        rpn_post_nms_top_n_test: proposals per image otherwise
        box_batch_size_per_image: proposals per image that the box head is trained on
        box_score_thresh: lowest score of a detection
        box_detections_per_img: most detections of an image
        num_classes: classes, without the background; decided by the data
    """

    task: ClassVar[str] = "detection"
    command: ClassVar[str] = "detect train"
    network_field: ClassVar[str] = "backbone"
    places: ClassVar[tuple[str, ...]] = ("data", *PATH_FIELDS)

    backbone: str = field(kw_only=False)
    head: str = "fpn"
    data: str = ""
    train_images: str | None = None
    train_annotations: str | None = None
    val_images: str | None = None
    val_annotations: str | None = None
    epochs: int = 26
    batch_size: int = 2
    eval_batch_size: int = 1
    lr: float = 2 * LR_PER_IMAGE
    milestones: tuple[float, ...] = (16 / 26, 22 / 26)
    warmup_steps: int = 1000
    warmup_lr: float = 1e-5
    norms: str = "auto"
    trainable_layers: int | None = None
    gates_of_frozen_layers: str = "frozen"
    min_size: tuple[int, ...] = (800,)
    max_size: int = 1333
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    anchor_sizes: tuple[int, ...] | None = None
    augment: str = "flip"
    empty_images: str = "drop"
    bad_annotations: int = 100
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    box_batch_size_per_image: int = 512
    box_score_thresh: float = 0.05
    box_detections_per_img: int = 100
    num_classes: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_size", "anchor_sizes"):
            if type(getattr(self, name)) is int:
                object.__setattr__(self, name, (getattr(self, name),))
        super().__post_init__()

    @property
    def least_images(self) -> int:
        """Images that each process needs in each part of a step; a gate's norm needs two values."""
        return 2 if self.norms == "normal" and self.block != "none" else 1

    @property
    def synchronised(self) -> bool:
        """Whether norms use the images of all processes together."""
        return self.norms == "synchronised"

    def rules(self) -> Rules:
        """{field: (whether its value is valid, what is valid in words)}."""
        positive = (
            *("rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test"),
            *("box_batch_size_per_image", "box_detections_per_img"),
        )
        rules = dict(super().rules())
        least = 2 * self.accumulate
        if self.synchronised and 0 < self.batch_size < least:
            why = "synchronised norms need two images, of all processes, in each part of a step"
            rules["batch_size"] = False, f">= {least}: {why}"
        elif 0 < self.batch_size < self.least_images:
            why = "a gate's norm needs two images; with --norms frozen one is enough"
            rules["batch_size"] = False, f">= 2: {why}"
        sides = f"whole numbers in [1, {MAX_SIDE}]"
        return {
            **rules,
            "data": (
                bool(self.data),
                "a directory in COCO's format (--data DIR), also where all files are given",
            ),
            "head": _one_of(self.head, HEADS),
            "norms": _one_of(self.norms, NORMS),
            "gates_of_frozen_layers": _one_of(self.gates_of_frozen_layers, GATES),
            "augment": _one_of(self.augment, AUGMENTS),
            "empty_images": _one_of(self.empty_images, EMPTY_IMAGES),
            "trainable_layers": (
                self.trainable_layers is None or 0 <= self.trainable_layers <= 5,
                "from 0 to 5",
            ),
            "min_size": (
                bool(self.min_size) and all(1 <= side <= MAX_SIDE for side in self.min_size),
                sides,
            ),
            "max_size": (
                max(self.min_size, default=1) <= self.max_size <= MAX_SIDE,
                f"at least min_size, and <= {MAX_SIDE:,}",
            ),
            "anchor_sizes": (
                self.anchor_sizes is None
                or (bool(self.anchor_sizes) and all(1 <= s <= MAX_SIDE for s in self.anchor_sizes)),
                sides,
            ),
            "image_std": (self.image_std is None or all(s > 0 for s in self.image_std), "> 0"),
            "bad_annotations": (self.bad_annotations >= 0, ">= 0"),
            "box_score_thresh": (0 <= self.box_score_thresh < 1, "in [0, 1)"),
            **{name: (getattr(self, name) >= 1, ">= 1") for name in positive},
        }


def _one_of(value: str, known: tuple[str, ...]) -> tuple[bool, str]:
    """The rule for a field with a few valid values."""
    return value in known, ", ".join(known[:-1]) + f" or {known[-1]}"
