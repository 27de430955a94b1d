"""One function that makes a network by its name, without gates or boosted."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accuracy_booster import blocks
from accuracy_booster.blocks import Recipe
from accuracy_booster.errors import SHOWN, shortened, shown
from accuracy_booster.models.registry import builder
from accuracy_booster.spelling import renamed
from accuracy_booster.surgery import boost
from accuracy_booster.surgery.skipping import Skip
from accuracy_booster.surgery.where import Where


@renamed("recipe", "block")
def create_model(
    name: str,
    *,
    block: str | Recipe | None = None,
    init: str = "paper",
    where: Where = "residual",
    skip: Skip = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    input_size: tuple[int, int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """Make a network and, if asked, boost it: `ab.boost(create_model(name), block)`.

    Args:
        name: one of `list_models()`, `wrnD_K`, `timm/NAME` or `torchvision/NAME`; or the directory
            of a finished run, whose network comes with its gates and weights (`ab.load_run`). With
            a run only `num_classes` may be given: another number than the run's makes a new head.
        block: what the gates compute: a block's name, its text or `ab.recipe(...)`. None or "none"
            leaves the network without gates.
        init, where, skip: as for `ab.boost`.
        pretrained: with the weights of timm or torchvision, which are downloaded once.
        num_classes: outputs of the head; by default the network's own (ours: 10 for CIFAR's, 1000
            for ImageNet's). 0 leaves the head out.
        in_chans: channels of the images.
        input_size: (C, H, W) of the images, by default the network's usual. Blocks with a weight
            for each position (designs G and H, Gather-Excite's learned global gather) need it.
        options: further arguments of timm's or torchvision's own function, such as timm's
            `drop_path_rate=0.1` or `pretrained_cfg_overlay={"file": PATH}`. `recipe=` is the former
            name of `block=`.

    Returns:
        The network. Its own parameters have the same names, and for the same random state the same
        values, with and without gates. Those of the gates are under `<site>.recalibrate`.

    Raises:
        ValueError: if the name or the block is unknown, the block does not fit the network, or the
            weights cannot be had.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"model={shown(name)} must be a name, such as 'resnet20' or 'timm/resnet18'; a module "
            "is boosted by ab.boost(module, block)"
        )
    for option, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{option}={shown(value)} must be a whole number")
    build = builder(name)
    parsed = None if block is None or block == "none" else blocks.recipe(block)
    if parsed is not None and input_size is None and parsed.needs_spatial_size:
        raise ValueError(
            f"block {shown(str(parsed))} has a weight for each position of the map, so it needs "
            "the images' size: pass input_size=(C, H, W)"
        )
    if in_chans < 1 or (num_classes is not None and num_classes < 0):
        raise ValueError(
            f"in_chans={shown(in_chans)} must be >= 1 and num_classes={shown(num_classes)} >= 0 "
            "(0: no head)"
        )
    if input_size is not None and (
        len(input_size) != 3 or input_size[0] != in_chans or min(input_size) < 1
    ):
        raise ValueError(
            f"input_size={shown(input_size)} must be (C, H, W), each >= 1, with C = in_chans = "
            f"{shown(in_chans)}"
        )
    try:
        model = build(pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **options)
    except TypeError as e:
        if "unexpected keyword argument" not in str(e):
            raise
        raise ValueError(f"{shortened(name, SHOWN)}: {str(e).rpartition('() ')[2]}") from None
    if parsed is None:
        return model
    example = torch.zeros(1, *input_size) if input_size else None
    return boost(model, parsed, example=example, where=where, skip=skip, init=init)
