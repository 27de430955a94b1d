"""The built-in data sets: scikit-learn's digits, and CIFAR-10 and CIFAR-100 of torchvision."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from accuracy_booster.data.images import TensorImages
from accuracy_booster.data.source import Part, Source


def digits_source() -> Source:
    """scikit-learn's 1797 handwritten digits, 8x8; a fixed stratified fifth is the test split."""
    splits = {split: partial(_digits, split) for split in ("train", "test")}
    return Source("digits", splits, flips=False)


def _digits(split: str) -> Part:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = range(len(digits.target))
    train, test = train_test_split(rows, test_size=0.2, stratify=digits.target, random_state=0)
    chosen = test if split == "test" else train
    images = torch.tensor(digits.images[chosen]) * (255 / 16)
    labels = torch.tensor(digits.target[chosen])
    return TensorImages(images.round().to(torch.uint8)[:, None], labels), tuple("0123456789")


def cifar_source(name: str, data_dir: str | None) -> Source:
    """CIFAR-10 or CIFAR-100, `name` in lower case. It is downloaded once, to `data_dir`."""
    splits = {split: partial(_cifar, name, data_dir, split) for split in ("train", "test")}
    return Source(name, splits)


def _cifar(name: str, data_dir: str | None, split: str) -> Part:
    from torchvision.datasets import CIFAR10, CIFAR100

    root = Path(data_dir or "~/.cache/accuracy_booster").expanduser()
    kind = CIFAR100 if name == "cifar100" else CIFAR10
    train = split == "train"
    try:
        data = kind(str(root), train=train)
    except RuntimeError:  # torchvision raises it if the files are not there, or damaged
        from accuracy_booster.progress import console

        made = not root.exists()
        console().print(f"Downloading {name} to {root}")
        try:
            data = kind(str(root), train=train, download=True)
        except (OSError, RuntimeError) as e:
            if made and root.is_dir() and not any(root.iterdir()):
                root.rmdir()
            raise ValueError(
                f"cannot download {name} to {root} ({e}); give --data a directory that has "
                "it, or --data_dir the folder of an earlier download"
            ) from e
    pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return TensorImages(pixels, data.targets), tuple(data.classes)
