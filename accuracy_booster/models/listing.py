"""`list_models`: the names of networks that match a pattern, ours and those of the libraries."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable

import torch

from accuracy_booster.models.creating import create_model
from accuracy_booster.models.libraries import LIBRARIES
from accuracy_booster.models.registry import MODELS
from accuracy_booster.progress import note, track
from accuracy_booster.surgery import plan

WILDCARDS = "*?["
MANY = 60  # networks whose planning takes a minute or more


def list_models(
    filter: str = "*", *, boostable: bool = False, pretrained: bool = False
) -> list[str]:
    """The names of the networks that match a shell-style pattern, as in timm's `list_models`.

    Args:
        filter: "*" lists ours. Any other pattern is looked for among ours, timm's and
            torchvision's, whose names begin with timm/ and torchvision/: "*resnet18*" finds
            resnet18 and timm/seresnet18. "timm/*" lists one library, and "*/*" both. A text
            without *, ? and [ is found anywhere in a name.
        boostable: only those where `ab.plan` finds a residual branch. Each network is planned,
            without memory for its weights, which takes about a second.
        pretrained: only those that have weights to download.
    """
    pattern = filter if any(c in filter for c in WILDCARDS) else _anywhere(filter)
    names = fnmatch.filter(MODELS, pattern)
    if filter != "*":
        for library in LIBRARIES:
            names += _of_library(library, pattern)
    if pretrained:
        have = _with_weights(names)
        names = [name for name in names if have(name)]
    if boostable:
        if len(names) > MANY:
            note(
                f"planning {len(names):,} networks takes a second for each; a filter such as "
                "'timm/resnet*' leaves fewer"
            )
        names = [name for name in track(names, "Planning") if _has_sites(name)]
    return names


def _anywhere(text: str) -> str:
    """The pattern that finds a text anywhere in a name, within the library that it may name."""
    library, slash, rest = text.partition("/")
    return f"{library}/*{rest}*" if slash and library in LIBRARIES else f"*{text}*"


def _of_library(library: str, pattern: str) -> list[str]:
    """The names of a library that match, with or without the library's name before them."""
    before, slash, _ = pattern.partition("/")
    if slash and not fnmatch.fnmatch(library, before):
        return []
    names = LIBRARIES[library].names()
    if slash:
        return [
            name for name in (f"{library}/{n}" for n in names) if fnmatch.fnmatch(name, pattern)
        ]
    return [f"{library}/{name}" for name in fnmatch.filter(names, pattern)]


def _with_weights(names: list[str]) -> Callable[[str], bool]:
    """Whether a network of these names has weights to download."""
    import timm
    import torchvision

    of_timm = {name.partition(".")[0] for name in timm.list_models(pretrained=True)}

    def have(name: str) -> bool:
        library, _, rest = name.rpartition("/")
        if library == "timm":
            return rest in of_timm
        if library == "torchvision":
            return len(torchvision.models.get_model_weights(rest)) > 0
        return MODELS[name].pretrained

    return have


def _has_sites(name: str) -> bool:
    """Whether `ab.plan` finds a site in a network, which is built without memory for weights."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            return bool(plan(create_model(name), "ab").gates)
        except (ValueError, RuntimeError, TypeError, NotImplementedError):
            return False
