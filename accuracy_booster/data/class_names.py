"""Which output of a network the name of a class stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

_WNID = re.compile(r"n\d{8}")


def places(classes: Sequence[str], outputs: int, data: str) -> list[int] | None:
    """The output of each class, or None where the classes are the outputs in their order.

    Numbers are outputs' numbers where there are fewer of them than outputs. Names are looked up
    among ImageNet's where the network has as many outputs as ImageNet-1k (or one of timm's other
    ImageNets) has classes: WordNet ids (n01440764), whole descriptions, or single words of these.

    Raises:
        ValueError: if there are fewer classes than outputs and their names tell none.
    """
    fewer = len(classes) < outputs
    if all(re.fullmatch(r"\d+", name) for name in classes):
        numbers = [int(name) for name in classes]
        if fewer and max(numbers) < outputs:
            return numbers
        _refuse_fewer(classes, outputs, data)
        return None
    table = _imagenet(outputs)
    found = [_look_up(table, name) for name in classes]
    unique = [places[0] for places in found if len(places) == 1]
    if len(set(unique)) == len(classes):
        return unique
    if fewer and any(found):
        strange = [name for name, places in zip(classes, found, strict=True) if len(places) != 1]
        raise ValueError(
            f"the network has {outputs} outputs, which are ImageNet's, and {data} has "
            f"{len(classes)} classes; these are not one class of ImageNet each: "
            f"{', '.join(strange[:5]) or 'two names of the same class'}; name them by their "
            "WordNet ids (n01440764), or pass classes=[...], the names of all outputs in order"
        )
    _refuse_fewer(classes, outputs, data)
    return None


def _refuse_fewer(classes: Sequence[str], outputs: int, data: str) -> None:
    if len(classes) < outputs:
        raise ValueError(
            f"the network has {outputs} outputs and {data} has {len(classes)} classes "
            f"({', '.join(classes[:5])}), whose names do not tell which outputs are theirs; pass "
            "classes=[...], the names of the outputs in their order, or train a head for these "
            "classes"
        )


def translate(names: Sequence[str], target: Sequence[str]) -> tuple[str, ...] | None:
    """Names of ImageNet's classes as `target` writes them, or None where they are not its names."""
    if not any(_WNID.search(name) for name in (names[0], target[0])):
        return None
    table = _imagenet(1000)
    of_target = {}
    for name in target:
        if len(found := _look_up(table, name)) == 1:
            of_target[found[0]] = name
    translated = []
    for name in names:
        found = _look_up(table, name)
        if len(found) != 1 or found[0] not in of_target:
            return None
        translated.append(of_target[found[0]])
    return tuple(translated)


def _look_up(table: dict[str, set[int]], name: str) -> list[int]:
    if table and (wnid := _WNID.search(name)):
        return sorted(table.get(wnid[0], ()))
    return sorted(table.get(_plain(name), ()))


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_\-\s]+", " ", name).casefold().split())


@cache
def _imagenet(outputs: int) -> dict[str, set[int]]:
    """Name -> numbers of the classes it names; empty for other numbers of outputs."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": outputs})
    table: dict[str, set[int]] = {}
    if subset is None:
        return table
    info = ImageNetInfo(subset)
    for number, wnid in enumerate(info.label_names()):
        table[wnid] = {number}
        description = info.label_name_to_description(wnid)
        for name in {_plain(description), *map(_plain, description.split(","))}:
            table.setdefault(name, set()).add(number)
    if outputs == 1000:  # torchvision calls some classes by names of its own
        from torchvision.models import ResNet18_Weights

        for number, name in enumerate(ResNet18_Weights.IMAGENET1K_V1.meta["categories"]):
            table.setdefault(_plain(name), {number})
    return table
