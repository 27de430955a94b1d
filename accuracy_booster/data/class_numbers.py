"""One numbering of the classes for all splits, and for the network. `loaders` uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from accuracy_booster.data.class_names import translate
from accuracy_booster.data.image_files import same_name
from accuracy_booster.data.images import Images
from accuracy_booster.data.source import Names


def number_classes(
    name: str,
    images: Mapping[str, Images],
    names: Mapping[str, Names],
    expected: Sequence[str] | None,
) -> tuple[str, ...]:
    """The names of the classes in the order of the labels' numbers, for all splits.

    The labels of a split whose own classes are others, or in another order, are changed in place.

    Args:
        name: of the data set, for messages.
        images, names: of each split; names are None where the classes are only numbered.
        expected: the classes that a network knows, if they are given. Otherwise the training
            split's count.

    Raises:
        ValueError: if a split has a class that is not among the expected ones.
    """
    counts = {split: int(part.labels.max()) + 1 for split, part in images.items()}
    names = {k: None if v is None else tuple(map(same_name, v)) for k, v in names.items()}
    named = [names[split] for split in ("train", *names) if names.get(split)]
    target = None if expected is None else tuple(map(same_name, expected))
    target = target if target is not None else next(iter(named), None)
    if target is None:  # numbers without names, as many as the split with most has
        target = tuple(map(str, range(max(counts.values()))))
    known = set(target)
    for split, given in names.items():
        missing = [n for n in given or () if n not in known]
        if given and missing and (translated := translate(given, target)):
            given, missing = translated, []
        if given is None and counts[split] > len(target):
            missing = [str(counts[split] - 1)]
        if missing:
            raise ValueError(
                f"the {split} split of {name} has {len(given or range(counts[split]))} classes, "
                f"among them {', '.join(missing[:3])}, that are not among the {len(target)} "
                "expected"
            )
        if given is not None and given != target:
            number = {name: i for i, name in enumerate(target)}
            new = torch.tensor([number[name] for name in given])
            images[split].labels = new[images[split].labels]
    return target
