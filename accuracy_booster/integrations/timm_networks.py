"""One name in timm's registry for the networks that timm does not have: `accuracy_booster`.

    ab.integrations.timm.register()
    timm.create_model("accuracy_booster", network="resnet20", block="ab", num_classes=10)

It builds every network that `ab.create_model` builds: ours, torchvision's, and those of timm that
have no boosted name. A saved network of this name says in its config.json which one it is.
"""

# C channels, H W space

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accuracy_booster.integrations.boosted_names import boosting
from accuracy_booster.models import create_model
from accuracy_booster.models.heads import classifier, heads, outputs_of
from accuracy_booster.models.libraries import BOOSTS
from accuracy_booster.surgery.gated import is_of_gate

NAME = "accuracy_booster"


def register_networks() -> None:
    """Put the name into timm's registry."""
    import timm
    from timm.models import register_model

    if not timm.is_model(NAME):
        setattr(accuracy_booster, BOOSTS, NAME)  # it gets no boosted name, and is not listed by us
        register_model(accuracy_booster)


def accuracy_booster(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    *,
    network: str = "resnet20",
    block: str = "none",
    init: str | None = None,
    where: Any = None,
    skip: Any = None,
    input_size: tuple[int, int, int] | None = None,
    grammar: int | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    cache_dir: Any = None,
    pretrained_model_args: dict[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """A network of `ab.create_model`, as timm's builders give theirs.

    Args:
        pretrained: with the weights that the config names. Without a config there are none.
        network: its name, such as "resnet20" or "torchvision/resnet18".
        block: a named block, a text, or "none".
        init, where, skip, input_size, grammar: as for the boosted names (`boosting`).
        num_classes, in_chans: by default those of the config, or the network's own.
        pretrained_model_args: timm's arguments of the saved network; they are not needed here.

    Raises:
        ValueError: for a network, block or option that does not exist, or weights of other gates.
        RuntimeError: from timm, for weights that do not fit, or that are not there.
    """
    config: dict[str, Any] = {}
    if pretrained_cfg or pretrained_cfg_overlay:
        from timm.models import resolve_pretrained_cfg

        config = resolve_pretrained_cfg(NAME, pretrained_cfg, pretrained_cfg_overlay).to_dict()
    chans = in_chans or (config["input_size"][0] if config else 3)
    classes = config.get("num_classes") if num_classes is None else num_classes
    model = create_model(network, num_classes=classes, in_chans=chans, **options)
    arguments: dict[str, Any] = {"network": network}
    if block != "none":
        given: dict[str, Any] = {"block": block, "init": init, "where": where, "skip": skip}
        request = boosting(NAME, None, **given, input_size=input_size, grammar=grammar)
        request.apply(model)
        arguments |= request.options
    model._model_args = arguments  # type: ignore[assignment]
    _describe(model, config, chans)
    if pretrained:
        from timm.models import load_pretrained

        load_pretrained(
            model,
            model.pretrained_cfg,  # type: ignore[arg-type]
            num_classes=model.num_classes,  # type: ignore[arg-type]
            in_chans=chans,
            filter_fn=_with_the_same_gates,
            cache_dir=cache_dir,
        )
    return model


def layers_to_adapt(model: nn.Module) -> dict[str, Any]:
    """What timm's config says of a network, so that its weights fit other classes and channels.

    `classifier` names the layers of the logits, and `first_conv` the layer that sees the image.
    """
    found = list(heads(model))
    convs = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return {
        "classifier": found[0] if len(found) == 1 else found,
        "first_conv": next(convs, None),
    }


def _describe(model: nn.Module, config: dict[str, Any], in_chans: int) -> None:
    """Have a network say what timm asks networks for."""
    known = getattr(model, "default_cfg", None) or {}
    size = known.get("input_size", (in_chans, 224, 224))
    about = {"input_size": size, **config, "architecture": NAME}
    if not {"classifier", "first_conv"} <= config.keys() and _has_head(model):
        about |= layers_to_adapt(model)
    values: dict[str, Any] = {"pretrained_cfg": about, "default_cfg": about, "in_chans": in_chans}
    if _has_head(model):
        head = classifier(model)[1]
        features = head.in_features if isinstance(head, nn.Linear) else head.in_channels
        values |= {"num_classes": outputs_of(head), "num_features": features}
    for name, value in values.items():
        setattr(model, name, value)


def _has_head(model: nn.Module) -> bool:
    """Whether a network gives logits: one that was made with num_classes=0 does not."""
    return getattr(model, "num_classes", None) != 0


def _with_the_same_gates(
    state: dict[str, torch.Tensor], model: nn.Module
) -> dict[str, torch.Tensor]:
    """The weights of a file, if they have the gates that the network has.

    timm leaves weights out without an error where the head has other classes.
    """
    gates, needed = ({k for k in keys if is_of_gate(k)} for keys in (state, model.state_dict()))
    if gates != needed:
        raise ValueError(
            f"{NAME}: the weights are of a network with other gates ({len(gates)} tensors of gates "
            f"in the file, {len(needed)} in the network); give the block=, where= and skip= with "
            "which it was trained"
        )
    return state
