"""Boosted names in torchvision's registry: `torchvision.models.get_model("ab_resnet50")`.

    ab.integrations.torchvision.register()
    model = torchvision.models.get_model("ab_resnet50.se", weights="IMAGENET1K_V2")

`boosted_names` says what a name means. The base network is built, and its weights are loaded, by
torchvision's own builder; then it is boosted. Scripts that look a name up in
`torchvision.models.__dict__` find `ab_resnet50` there too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from accuracy_booster.blocks import list_recipes
from accuracy_booster.integrations.boosted_names import PREFIX, boosting, many_objects, named
from accuracy_booster.models.libraries import BOOSTS

# Packages of torchvision whose networks take one tensor of images and have weights to train.
PACKAGES = ("torchvision.models", "torchvision.models.segmentation", "torchvision.models.video")
WITHOUT_MAPS = frozenset({"vision_transformer", "swin_transformer", "mvit"})
OPTIONS = ("block", "init", "where", "skip", "input_size", "grammar")


def register() -> list[str]:
    """Put the boosted names into torchvision's registry, for `torchvision.models.get_model`.

    What torchvision has is left as it is. `torchvision.models.list_models()` without a filter lists
    the boosted names too; `exclude="ab_*"` leaves them out.

    Returns:
        All boosted names that are registered, sorted.
    """
    import torchvision
    from torchvision.models._api import register_model

    models = torchvision.models
    known, blocks = set(models.list_models()), (None, *list_recipes())
    with many_objects():
        for base in sorted(known):
            build, name = models.get_model_builder(base), f"{PREFIX}{base}"
            package, _, file = build.__module__.rpartition(".")
            if hasattr(build, BOOSTS) or package not in PACKAGES or file in WITHOUT_MAPS:
                continue
            signature = _signature(build)
            for block in blocks:
                full = f"{name}.{block}" if block else name
                if full not in known:
                    entry = named(_builder(name, block, build), full, __name__, base)
                    # torchvision reads from the annotation of `weights` which ones there are
                    entry.__signature__ = signature  # type: ignore[attr-defined]
                    register_model(full)(entry)
            if package == "torchvision.models" and not hasattr(models, name):
                setattr(models, name, models.get_model_builder(name))
    return models.list_models(include=f"{PREFIX}*")


def _builder(name: str, tag: str | None, build: Callable[..., nn.Module]) -> Callable:
    def entry(**options: Any) -> nn.Module:
        given = {option: options.pop(option) for option in OPTIONS if option in options}
        request = boosting(name, tag, **given)
        return request.apply(build(**options))

    return entry


def _signature(build: Callable) -> inspect.Signature:
    """The parameters of the base's builder, and ours."""
    own = [inspect.Parameter(o, inspect.Parameter.KEYWORD_ONLY, default=None) for o in OPTIONS]
    parameters = list(inspect.signature(build).parameters.values())
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    return inspect.Signature([*(p for p in parameters if p not in rest), *own, *rest])
