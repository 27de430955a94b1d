"""Networks of timm and torchvision, by the names they have there."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from accuracy_booster.errors import is_out_of_memory, shortened, shown, unknown
from accuracy_booster.models.heads import replace_heads


@dataclass(frozen=True)
class Library:
    """How to list a library's classification networks and how to build one."""

    names: Callable[[], list[str]]
    build: Callable[..., nn.Module]
    has: Callable[[str], bool]

    def builder(self, name: str) -> Callable[..., nn.Module]:
        if not self.has(name):
            raise unknown("model", name, self.names())
        return partial(self.build, name)


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _timm_has(name: str) -> bool:
    import timm

    return timm.is_model(name)  # also with a weight tag: resnet50.a1_in1k


def _timm(
    name: str, *, pretrained: bool, num_classes: int | None, in_chans: int, **options: Any
) -> nn.Module:
    import timm

    if num_classes is not None:
        options["num_classes"] = num_classes
    with _weights_or_value_error(f"timm/{name}"), _hub_if_reachable(pretrained):
        return timm.create_model(name, pretrained=pretrained, in_chans=in_chans, **options)


@contextmanager
def _hub_if_reachable(pretrained: bool) -> Iterator[None]:
    """Without a network only the local cache is asked, instead of retrying for a minute."""
    if not pretrained:
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(address: str) -> bool:
    if urllib.request.getproxies():
        return True  # the proxy knows
    url = urllib.parse.urlsplit(address)
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


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
            "timm's networks take any number"
        )
    if pretrained:
        options.setdefault("weights", "DEFAULT")
    with _weights_or_value_error(f"torchvision/{name}"):
        model = torchvision.models.get_model(name, **options)
    if num_classes is not None:
        replace_heads(model, num_classes)
    return model


class _weights_or_value_error:
    """Tells in one line that weights cannot be had, whatever the library raised."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if error is None or isinstance(error, ValueError) or is_out_of_memory(error):
            return
        words = str(error).splitlines()
        reason = shortened(words[0], 300) if words else type(error).__name__
        if isinstance(error, (OSError, RuntimeError)):
            raise ValueError(
                f"cannot make {self.name} or get its weights (is there a network?): {reason}"
            ) from error


LIBRARIES = {
    "timm": Library(_timm_names, _timm, _timm_has),
    "torchvision": Library(
        _torchvision_names, _torchvision, lambda name: name in _torchvision_names()
    ),
}
