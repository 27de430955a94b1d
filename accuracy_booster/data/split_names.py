"""Which split a folder or a file holds, by its name. All kinds of sources use it."""

from __future__ import annotations

from collections.abc import Sequence

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}


def name_splits(found: Sequence[str], where: str = "the data set") -> dict[str, str]:
    """The names among `found` that mean a split, by the split: {"train": "training", ...}.

    If there is a validation split and no test split, the validation split is the test split.

    Raises:
        ValueError: if two names mean the same split.
    """
    splits: dict[str, str] = {}
    for name in found:
        split = _SPLITS.get(name.lower())
        if split in splits:
            raise ValueError(
                f"{where} has both {splits[split]} and {name}, and each names the {split} split; "
                "rename the one that is not to be used"
            )
        if split:
            splits[split] = name
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    return splits
