"""torchvision's Faster R-CNN with any classification network, boosted or not, as its backbone."""

# H W space, in pixels

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from accuracy_booster.blocks import Recipe
from accuracy_booster.detection.anchors import anchor_generator
from accuracy_booster.detection.backbone import (
    attach_gates,
    backbone_network,
    check_gates,
)
from accuracy_booster.detection.choices import GATES, HEADS, NORMS
from accuracy_booster.detection.freezing import LAYERS, Part, freeze, trained_parts
from accuracy_booster.detection.heads import LastStage, last_stage_head, pyramid, pyramid_stages
from accuracy_booster.detection.norms import Norms
from accuracy_booster.detection.stages import Stages, find_stages
from accuracy_booster.errors import shown, unknown
from accuracy_booster.surgery import attached
from accuracy_booster.training.initial_weights import start_of_gates

# arguments of FasterRCNN that are not options, and options that it hands to its transform
_OURS = {"self", "backbone", "num_classes", "kwargs"}
_OF_TRANSFORM = {"size_divisible", "fixed_size"}


class Detector(FasterRCNN):
    """torchvision's FasterRCNN that knows the parts of its backbone.

    Attributes:
        stages: the backbone's stages, by the names of the classification network.
        parts: the stem and the stages, and whether they are trained; see `detection.summary`.
        norms: "frozen", "synchronised" or "normal"; see `norms.py`.
        classes: the names of the labels from 1 on; None until they are known.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        stages: Stages,
        trainable_layers: int,
        norms: str,
        **options: Any,
    ):
        super().__init__(backbone, **options)
        self.stages = stages
        self.parts = _parts(self, stages, trainable_layers)
        self.norms = norms
        self.classes: tuple[str, ...] | None = None


def faster_rcnn(
    backbone: str | Path | nn.Module,
    *,
    block: str | Recipe | None = None,
    num_classes: int = 91,
    head: Literal["fpn", "c4"] = "fpn",
    init: str = "auto",
    pretrained: bool = False,
    trainable_layers: int | None = None,
    gates_of_frozen_layers: Literal["frozen", "trained"] = "frozen",
    norms: Norms = "auto",
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    anchor_sizes: Sequence | None = None,
    **options: Any,
) -> Detector:
    """Faster R-CNN on a classification network, boosted or not.

    Its inputs and outputs are those of torchvision's detectors: it takes a list of images, float
    [3, H, W] in [0, 1] of any sizes, and in training mode a list of targets. Its parameters have
    torchvision's names; with "torchvision/resnet50" they are those of `fasterrcnn_resnet50_fpn`.
    The parameters of a gate are below `<site>.recalibrate`. From the same random state, everything
    but the gates starts with the same values, whatever the block.

    Args:
        backbone: a name (`ab.create_model`), the directory of a finished training, or a module,
            which is copied and not changed.
        block: the block of the gates. None for no gates, or for those that the backbone has.
        num_classes: the number of classes and the background, which is class 0.
        head: "fpn" (a feature pyramid) or "c4" (the last stage is the box head, as in the paper's
            baseline); see `heads.py`.
        init: how new gates start: "paper", "identity" (they change nothing at first), or "auto":
            the identity on trained weights, if the block can start so, and else as in the paper.
        pretrained: whether a named network gets its library's weights of classification.
        trainable_layers: from 0 (the backbone is frozen) to 5 (all of it is trained), as
            torchvision's `trainable_backbone_layers`. By default 3 with trained weights, else 5;
            see `freezing.trained_parts`.
        gates_of_frozen_layers: "frozen" (parameters and statistics) or "trained".
        norms: the norms of the backbone: "frozen", "synchronised", "normal", or "auto" (frozen with
            trained weights, else normal); see `norms.py`. New gates with frozen norms need
            `estimate_gate_norms`.
        min_size, max_size: the sides of the resized images, in pixels.
        image_mean, image_std: of pixels in [0, 1]; by default those that the backbone was trained
            with, else ImageNet's.
        anchor_sizes: the anchors' sides in pixels for each feature map; see `anchors.py`.
        options: torchvision's own options (`box_score_thresh`, `rpn_post_nms_top_n_train`, ...).

    Raises:
        ValueError: for a backbone without stages, a head that the backbone cannot have, an unknown
            option, or anything that `ab.create_model` and `ab.boost` refuse.
    """
    _check(head, gates_of_frozen_layers, norms, num_classes, options)
    if trainable_layers is not None:
        trained_parts(LAYERS, trainable_layers)
    network, trained, own = backbone_network(backbone, pretrained, block)
    check_gates(network, block)
    if block is not None and block != "none" and not attached(network):
        attach_gates(network, block, start_of_gates(init, block, trained))
    stages = find_stages(network)
    more: dict[str, Any]
    body: nn.Module
    if head == "fpn":
        used = pyramid_stages(stages)
        body, pool = pyramid(network, stages)
        strides = [stage.stride for stage in used]
        strides.append(2 * strides[-1])  # the pyramid adds one map by pooling
        more = {"num_classes": num_classes}
    else:
        body, pool, box_head = last_stage_head(network, stages)
        strides = [stages.stages[-2].stride]
        predictor = FastRCNNPredictor(stages.stages[-1].channels, num_classes)
        more = {"box_head": box_head, "box_predictor": predictor}
    mean, std = image_mean or own[0], image_std or own[1]
    if trainable_layers is None:
        trainable_layers = 3 if trained else LAYERS
    if norms == "auto":
        norms = "frozen" if trained else "normal"
    model = Detector(
        body,
        stages=stages,
        trainable_layers=trainable_layers,
        norms=norms,
        min_size=min_size,
        max_size=max_size,
        image_mean=list(mean),
        image_std=list(std),
        rpn_anchor_generator=anchor_generator(strides, anchor_sizes),
        box_roi_pool=pool,
        **more,
        **options,
    )
    freeze(model, model.parts, gates=gates_of_frozen_layers, norms=norms)
    return model


def _check(head: str, gates: str, norms: str, num_classes: int, options: dict[str, Any]) -> None:
    """Raise ValueError for an unknown option, or a value out of range."""
    for name, value, known in (
        ("head", head, HEADS),
        ("gates_of_frozen_layers", gates, GATES),
        ("norms", norms, NORMS),
    ):
        if value not in known:
            raise ValueError(f"{name}={shown(value)} must be one of {', '.join(map(repr, known))}")
    if type(num_classes) is not int or num_classes < 2:
        raise ValueError(
            f"num_classes={shown(num_classes)} must be >= 2: the background counts as a class"
        )
    own = set(inspect.signature(FasterRCNN.__init__).parameters) - _OURS | _OF_TRANSFORM
    own -= {"rpn_anchor_generator", "box_roi_pool", "box_head", "box_predictor"}  # made here
    for name in options:
        if name not in own:
            raise unknown("option of Faster R-CNN", name, own)


def _parts(model: FasterRCNN, stages: Stages, trainable_layers: int) -> tuple[Part, ...]:
    """The stem and the stages, with their tensors by the detector's names."""
    groups = {"stem": stages.stem, **{stage.name: stage.tensors for stage in stages.stages}}
    flags = trained_parts(len(groups), trainable_layers)
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    # with head="c4" the last stage is the box head
    moved = isinstance(model.roi_heads.box_head, LastStage)
    places = ("backbone.body.", *(["roi_heads.box_head."] if moved else []))
    parts = []
    for (title, tensors), trained in zip(groups.items(), flags, strict=True):
        found = {place + tensor for tensor in tensors for place in places} & names
        parts.append(Part(title, frozenset(found), trained))
    return tuple(parts)
