"""Which output of a network belongs to a class, by the name of the class.

Evaluation measures a network of ImageNet on data with some of its classes (`outputs_of`), and
`class_numbers` compares names of such classes in several spellings (`translate`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from accuracy_booster.errors import shown

_WNID = re.compile(r"n\d{8}")


def check_names(classes: Any, name: str = "classes") -> None:
    """Raise ValueError unless these are the names of outputs: a list of texts."""
    listed = isinstance(classes, Sequence) and not isinstance(classes, (str, bytes))
    if not listed or not classes or not all(isinstance(one, str) for one in classes):
        raise ValueError(
            f"{name}={shown(classes)} must be the names of all outputs in their order, a list of "
            'texts such as ["cat", "dog"]'
        )


def outputs_of(classes: Sequence[str], outputs: int, data: str) -> list[int] | None:
    """The number of the output of each class; None if the outputs are the classes in their order.

    If the classes are called by numbers, and there are fewer of them than outputs, these are the
    numbers of the outputs. If the network has as many outputs as ImageNet-1k, or another of timm's
    ImageNets, has classes, other names are looked up there: WordNet ids (n01440764), descriptions,
    or one of the descriptions' words.

    Args:
        outputs: how many outputs the network has.
        data: the name of the data set, for messages.

    Raises:
        ValueError: if there are fewer classes than outputs and their names tell no outputs.
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
    unique = [numbers[0] for numbers in found if len(numbers) == 1]
    if len(set(unique)) == len(classes):
        return unique
    if fewer and any(found):
        pairs = zip(classes, found, strict=True)
        strange = [name for name, numbers in pairs if len(numbers) != 1]
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
    """`names` of ImageNet's classes in the spelling of `target`; None if one is not among `target`.

    One of the two must be WordNet ids.
    """
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
    """The numbers of the classes that a name means; it may contain a WordNet id."""
    if table and (wnid := _WNID.search(name)):
        return sorted(table.get(wnid[0], ()))
    return sorted(table.get(_normal(name), ()))


def _normal(name: str) -> str:
    """A name in lower case, its words separated by single spaces."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).casefold().split())


@cache
def _imagenet(outputs: int) -> dict[str, set[int]]:
    """The numbers of the classes by their names, for the ImageNet with so many classes.

    Empty if there is none. A name may mean several classes: "crane" is a bird and a machine.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": outputs})
    table: dict[str, set[int]] = {}
    if subset is None:
        return table
    info = ImageNetInfo(subset)
    for number, wnid in enumerate(info.label_names()):
        table[wnid] = {number}
        description = info.label_name_to_description(wnid)
        for name in {_normal(description), *map(_normal, description.split(","))}:
            table.setdefault(name, set()).add(number)
    if outputs == 1000:  # torchvision has other names for some classes
        from torchvision.models import ResNet18_Weights

        for number, name in enumerate(ResNet18_Weights.IMAGENET1K_V1.meta["categories"]):
            table.setdefault(_normal(name), {number})
    return table
