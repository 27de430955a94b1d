"""Faster R-CNN (torchvision's) with any classification network, boosted or not, as its backbone."""

# H W space, in pixels

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from accuracy_booster.blocks import Recipe
from accuracy_booster.blocks import recipe as as_recipe
from accuracy_booster.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from accuracy_booster.detection.anchors import anchor_generator
from accuracy_booster.detection.choices import GATES, HEADS, NORMS
from accuracy_booster.detection.freezing import LAYERS, Part, freeze, trained_parts
from accuracy_booster.detection.heads import LastStage, last_stage_head, pyramid, pyramid_stages
from accuracy_booster.detection.norms import Norms, batch_norms
from accuracy_booster.detection.stages import Stages, find_stages
from accuracy_booster.errors import shown, unknown
from accuracy_booster.models import builder, create_model
from accuracy_booster.models.preprocessing import preprocessing_of, pretrained_preprocessing
from accuracy_booster.models.registry import is_model
from accuracy_booster.surgery import attached, boost
from accuracy_booster.surgery.refusing import refuse_wrapped
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.run_directory import Run

IMAGENET = IMAGENET_MEAN, IMAGENET_STD  # of pixels in [0, 1]
_OURS = {"self", "backbone", "num_classes", "kwargs"}
_OF_TRANSFORM = {"size_divisible", "fixed_size"}  # what FasterRCNN hands on


class Detector(FasterRCNN):
    """torchvision's FasterRCNN that knows the parts of its backbone.

    Attributes:
        parts: the stem and the stages, with what is trained; see `detection.summary`.
        norms: "frozen", "synchronised" or "normal".
        stages: the backbone's stages as they were found, by the classification network's names.
    """

    parts: tuple[Part, ...]
    norms: str
    stages: Stages


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
    """Faster R-CNN on a classification network, plain or boosted.

    It takes what torchvision's detectors take, a list of float [3, H, W] in [0, 1] of any sizes,
    with targets in training mode, and gives what they give. Its parameters have torchvision's
    names: with "torchvision/resnet50" those of `fasterrcnn_resnet50_fpn`. Gates are under
    `<site>.recalibrate`. For the same random state all but the gates starts with the same values,
    with and without a block.

    Args:
        backbone: a name (`ab.create_model`), the directory of a finished training, or a module,
            which is copied and stays as it is.
        block: what the gates compute; None for none, or for those that the backbone has.
        num_classes: classes and the background, which is class 0.
        head: "fpn" (a feature pyramid) or "c4" (the last stage as the box head, the paper's
            baseline); `heads.py` explains them.
        init: of new gates: "paper", "identity" (the network starts as what it was), or "auto":
            identity with trained weights, where the block can, and else paper.
        pretrained: with the library's weights of classification.
        trainable_layers: 0 (the backbone is frozen) to 5 (all of it is trained), torchvision's
            `trainable_backbone_layers`: how many of the last stages, the stem after the first.
            None: 3 with trained weights, else 5. The stages are found by one pass.
        gates_of_frozen_layers: "frozen" (parameters and statistics) or "trained".
        norms: of the backbone: "frozen", "synchronised", "normal", or "auto" (frozen with trained
            weights, else normal); `norms.py` explains them. New gates in frozen norms need
            `estimate_gate_norms`.
        min_size, max_size: of the resized image's sides, in pixels.
        image_mean, image_std: of pixels in [0, 1]; by default what the backbone was trained with,
            else ImageNet's.
        anchor_sizes: the anchors' sides in pixels, for each map; see `anchors.py`.
        options: torchvision's own (`box_score_thresh`, `rpn_post_nms_top_n_train`, ...).

    Raises:
        ValueError: for a backbone without stages, a head that it cannot have, an unknown option,
            or what `ab.create_model` and `ab.boost` refuse.
    """
    _check(head, gates_of_frozen_layers, norms, num_classes, options)
    if trainable_layers is not None:
        trained_parts(LAYERS, trainable_layers)
    network, trained, own = _network(backbone, pretrained, block)
    _check_gates(network, block)
    if block is not None and block != "none" and not attached(network):
        _boost(network, block, _init(init, block, trained))
    stages = find_stages(network)
    more: dict[str, Any]
    body: nn.Module
    if head == "fpn":
        used = pyramid_stages(stages)
        body, pool = pyramid(network, stages)
        strides = [stage.stride for stage in used]
        strides.append(2 * strides[-1])  # the pyramid's pooled map
        more = {"num_classes": num_classes}
    else:
        body, pool, box_head = last_stage_head(network, stages)
        strides = [stages.stages[-2].stride]
        predictor = FastRCNNPredictor(stages.stages[-1].channels, num_classes)
        more = {"box_head": box_head, "box_predictor": predictor}
    mean, std = image_mean or own[0], image_std or own[1]
    model = Detector(
        body,
        min_size=min_size,
        max_size=max_size,
        image_mean=list(mean),
        image_std=list(std),
        rpn_anchor_generator=anchor_generator(strides, anchor_sizes),
        box_roi_pool=pool,
        **more,
        **options,
    )
    if trainable_layers is None:
        trainable_layers = 3 if trained else LAYERS
    model.stages, model.parts = stages, _parts(model, stages, trainable_layers)
    model.norms = ("frozen" if trained else "normal") if norms == "auto" else norms
    freeze(model, model.parts, gates=gates_of_frozen_layers, norms=model.norms)
    return model


def _init(init: str, block: str | Recipe, trained: bool) -> str:
    """How new gates start."""
    if init != "auto" or not trained:
        return "paper" if init == "auto" else init
    try:
        as_recipe(block).as_identity()
    except ValueError:
        return "paper"
    return "identity"


def _check(head: str, gates: str, norms: str, num_classes: int, options: dict[str, Any]) -> None:
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


Normalisation = tuple[Sequence[float], Sequence[float]]


def _network(
    backbone: str | Path | nn.Module, pretrained: bool, block: str | Recipe | None
) -> tuple[nn.Module, bool, Normalisation]:
    """The network, whether its weights are trained, and the mean and std of its images' pixels."""
    if isinstance(backbone, nn.Module):
        refuse_wrapped(backbone)
        if isinstance(backbone, FasterRCNN):
            raise ValueError(
                f"the backbone is a {type(backbone).__name__}, a whole detector; give a "
                "classification network, or boost the detector itself with ab.boost(detector)"
            )
        if pretrained:
            raise ValueError(
                "pretrained=True is for a name; a module has the weights that you gave it"
            )
        own = preprocessing_of(backbone)
        norms = batch_norms(backbone).values()
        trained = any(bool(norm.running_mean.any()) for norm in norms)  # type: ignore[union-attr, operator]
        return copy.deepcopy(backbone), trained, (own.mean, own.std) if own else IMAGENET
    if not isinstance(backbone, (str, Path)):
        raise ValueError(
            f"backbone={shown(backbone)} must be a network's name, the directory of a training, or "
            "a module"
        )
    path = Path(backbone).expanduser()
    if isinstance(backbone, Path) or (path.is_dir() and not is_model(backbone)):
        return _of_run(path, pretrained, block)
    builder(backbone)  # refuses unknown names
    network = create_model(backbone, pretrained=pretrained)
    known = pretrained_preprocessing(backbone)
    fits = known is not None and len(known.mean) == 3
    return network, pretrained, (known.mean, known.std) if known and fits else IMAGENET


def _of_run(
    path: Path, pretrained: bool, block: str | Recipe | None
) -> tuple[nn.Module, bool, Normalisation]:
    if pretrained:
        raise ValueError(f"pretrained=True is for a name; {path} has the weights of its training")
    run, config = Run.open(path)
    if block is not None and not _same(block, config.block):
        raise ValueError(
            f"block={shown(str(block))}, but the network in {path} was trained with "
            f"block={config.block!r}; leave block out"
        )
    if config.in_chans != 3:
        raise ValueError(
            f"the network in {path} takes images of {config.in_chans} channels; a detector's have 3"
        )
    normalisation = (config.mean or IMAGENET[0], config.std or IMAGENET[1])
    return load_network(run, config), True, normalisation


def _same(block: str | Recipe, other: str) -> bool:
    if "none" in (block, other):
        return block == other
    return as_recipe(block) == as_recipe(other)


def _check_gates(network: nn.Module, block: str | Recipe | None) -> None:
    """Raise ValueError for gates that a detector cannot have, or that are not those asked for."""
    gates = {str(gate.recipe): gate.recipe for gate in attached(network).values()}
    plain = block is None or block == "none"
    wanted = None if plain else as_recipe(block)  # type: ignore[arg-type]
    for recipe in (*gates.values(), *([wanted] if wanted is not None else [])):
        if recipe.needs_spatial_size:
            raise ValueError(
                f"the block {shown(str(recipe))} has a weight for each position of maps of one "
                "size, and a detector's maps are as large as its images; use another block"
            )
    if gates and block is not None and set(gates.values()) != {wanted}:
        raise ValueError(
            f"block={shown(str(block))}, but the backbone has gates of {', '.join(gates)} already; "
            "leave block out, or take them off first (ab.unboost)"
        )


def _boost(network: nn.Module, block: str | Recipe, init: str) -> None:
    """Put gates on residual branches; what is made afterwards starts as it would without them."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, ())))
        try:
            boost(network, block, init=init)
        except ValueError as e:
            if "where=" not in str(e):
                raise
            find_stages(network)  # tells of networks that no detector can stand on
            raise ValueError(
                f"{e}; in a detector: give a module that is boosted so, or block='none'"
            ) from None


def _parts(model: Detector, stages: Stages, trainable_layers: int) -> tuple[Part, ...]:
    groups = {"stem": stages.stem, **{stage.name: stage.tensors for stage in stages.stages}}
    flags = trained_parts(len(groups), trainable_layers)
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    moved = isinstance(model.roi_heads.box_head, LastStage)
    places = ("backbone.body.", *(["roi_heads.box_head."] if moved else []))
    parts = []
    for (title, tensors), trained in zip(groups.items(), flags, strict=True):
        found = {place + tensor for tensor in tensors for place in places} & names
        parts.append(Part(title, frozenset(found), trained))
    return tuple(parts)
