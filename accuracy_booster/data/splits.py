"""Which images train and which measure: a data set's own splits, or a share that is held out.

`loaders` reads the splits of a source with `read`, and divides the training split with `hold_out`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from accuracy_booster.data.images import Images, Subset
from accuracy_booster.data.source import Part, Source, Unlabelled
from accuracy_booster.progress import note


def read(source: Source, splits: Sequence[str], validation: float) -> tuple[dict[str, Part], str]:
    """Images and class names of each split, and which split the held-out share becomes, or "".

    A split without labels is left out, with a note. A test split that is missing, or has no labels,
    is replaced by the validation split. If there is none, the share `validation` of the training
    images becomes the test split.

    Raises:
        ValueError: if nothing is left to measure on; it says what to do.
    """
    found: dict[str, Part] = {}
    held, untried = "", set(source.splits)
    bare: list[str] = []  # why a split has no labels
    notes: list[str] = []
    for split in splits:
        if split != "test":
            found[split] = source.read(split)
            continue
        for name in ("test", "validation"):
            if name in untried and "test" not in found:
                untried.remove(name)
                try:
                    found["test"] = source.read(name)
                except Unlabelled as e:
                    bare.append(str(e))
        if "test" not in found:
            held = _without_test(source, found, validation, bare, notes)
        elif bare:
            notes.append(f"the validation split of {source.name} is the test split")
    if "train" in splits and validation and not held:
        held = "validation"
    if "train" in splits and not held and "validation" in untried and "validation" not in found:
        try:
            found["validation"] = source.read("validation")
        except Unlabelled as e:
            bare.append(str(e))
    for line in (*(f"{reason}; it is left out" for reason in bare), *notes):
        note(line)
    return found, held


def _without_test(
    source: Source, found: dict[str, Part], validation: float, bare: list[str], notes: list[str]
) -> str:
    """What replaces the test split of a source that has none with labels.

    Adds to `found` what must be read for it, and returns the split that the held-out share becomes.
    """
    if "train" not in source.splits:
        raise ValueError("; ".join(bare) or f"{source.name} has no test split")
    if validation:
        if "train" not in found:
            found["train"] = source.read("train")
        notes.append(
            f"the test split of {source.name} is the share {validation:g} of its training images "
            "that --validation holds out"
        )
        return "test"
    if source.unsplit and "train" not in found:
        found["test"] = source.read("train")
        notes.append(f"{source.name} has no splits: all its images are measured")
        return ""
    why = "; ".join(bare) or f"{source.name} has no test split; it has: train"
    if source.unsplit:
        why = f"{source.name} has no test split: it {source.whole}"
    raise ValueError(
        f"{why}. To measure on a share of the training images that is held out, give "
        "--validation 0.2 (validation=0.2)"
    )


def hold_out(images: Images, share: float, by: str) -> tuple[Images, Images]:
    """The images that train, and the share that is held out. Each class loses the same share.

    The draw does not depend on a seed.

    Args:
        by: "names" draws by the files' names, so that an image stays where it is when others are
            added or removed; "rows" draws by their numbers. Images without names are always drawn
            by numbers.

    Raises:
        ValueError: if one of the two would be empty.
    """
    count = round(share * len(images))
    if not 0 < count < len(images):
        raise ValueError(f"validation={share} of {len(images)} images leaves a split empty")
    if by == "names" and images.names is not None:
        held = _drawn_by_name(images, images.names, count)
        chosen = set(held)
        kept = [row for row in range(len(images)) if row not in chosen]
        return Subset(images, kept), Subset(images, held)
    from sklearn.model_selection import train_test_split

    rows, labels = range(len(images)), images.labels.numpy()
    try:
        kept, held = train_test_split(rows, test_size=count, stratify=labels, random_state=0)
    except ValueError:  # a class has one image, or fewer images are held out than there are classes
        kept, held = train_test_split(rows, test_size=count, random_state=0)
    return Subset(images, kept), Subset(images, held)


def _drawn_by_name(images: Images, names: Sequence[str], count: int) -> list[int]:
    """The `count` rows whose names have the smallest hashes, of each class its share."""
    sizes = images.labels.bincount().double()
    quotas = sizes * count / len(images)
    whole = (quotas + 1e-9).long()
    rest = (quotas - whole).argsort(descending=True, stable=True)[: count - int(whole.sum())]
    whole[rest] += 1
    order = sorted(range(len(images)), key=lambda row: _hash(names[row]))
    left, held = whole.tolist(), []
    for row, label in ((row, int(images.labels[row])) for row in order):
        if left[label]:
            left[label] -= 1
            held.append(row)
    return sorted(held)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
