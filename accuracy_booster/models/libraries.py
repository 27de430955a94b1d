"""Networks of timm and torchvision, by the names that they have there. `registry` asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from accuracy_booster.errors import is_out_of_memory, shortened, shown
from accuracy_booster.models.heads import replace_heads
from accuracy_booster.models.hub_cache import cached_if_unreachable

# An attribute of the builders that `integrations` puts into a library's registry: the base's name.
# They are for scripts of other people: here a network is boosted by `block=`, and only once.
BOOSTS = "boosts"


@dataclass(frozen=True)
class Library:
    """How to list a library's classification networks, how to build one, and whether it has one."""

    names: Callable[[], list[str]]
    build: Callable[..., nn.Module]
    has: Callable[[str], bool]

    def builder(self, name: str) -> Callable[..., nn.Module]:
        """The function that builds the network of this name, which the library must have."""
        return partial(self.build, name)


def _timm_names() -> list[str]:
    import timm

    return [name for name in timm.list_models() if not _is_boosted(name)]


def _timm_has(name: str) -> bool:
    import timm

    # also with a weight tag: resnet50.a1_in1k
    return timm.is_model(name) and not _is_boosted(name)


def _is_boosted(name: str) -> bool:
    """Whether `integrations.timm` has put this name into timm's registry."""
    from timm.models import model_entrypoint

    return hasattr(model_entrypoint(name), BOOSTS)


def _timm(
    name: str, *, pretrained: bool, num_classes: int | None, in_chans: int, **options: Any
) -> nn.Module:
    import timm

    if num_classes is not None:
        options["num_classes"] = num_classes
    if pretrained:
        options = cached_if_unreachable(name, options)
    with _weights_or_value_error(f"timm/{name}"):
        return timm.create_model(name, pretrained=pretrained, in_chans=in_chans, **options)


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _torchvision(
    name: str, *, pretrained: bool, num_classes: int | None, in_chans: int, **options: Any
) -> nn.Module:
    import torchvision

    if in_chans != 3:
        raise ValueError(
            f"torchvision/{name} takes images of 3 channels, not in_chans={shown(in_chans)}; "
            "give in_chans=3 (--in_chans 3), which makes grey images colour; timm's networks take "
            "any number"
        )
    if pretrained:
        options.setdefault("weights", "DEFAULT")
    with _weights_or_value_error(f"torchvision/{name}"):
        model = torchvision.models.get_model(name, **options)
    if num_classes is not None:
        replace_heads(model, num_classes)
    return model


@contextmanager
def _weights_or_value_error(name: str) -> Iterator[None]:
    """Turn a library's error about weights that cannot be had into a ValueError of one line."""
    try:
        yield
    except (OSError, RuntimeError) as e:
        if isinstance(e, ValueError) or is_out_of_memory(e):
            raise
        words = str(e).splitlines()
        reason = shortened(words[0], 300) if words else type(e).__name__
        raise ValueError(
            f"cannot make {name} or get its weights (is there a network?): {reason}"
        ) from e


LIBRARIES = {
    "timm": Library(_timm_names, _timm, _timm_has),
    "torchvision": Library(
        _torchvision_names, _torchvision, lambda name: name in _torchvision_names()
    ),
}
