"""The accuracy of an exported file, and the images that an int8 file is calibrated with."""

# N images, C channels, H W space

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.images import Subset
from accuracy_booster.data.normalisation import normalise
from accuracy_booster.errors import shown
from accuracy_booster.exported.sessions import Session
from accuracy_booster.training.evaluation import measure_opened
from accuracy_booster.training.file_network import FileNetwork
from accuracy_booster.training.measuring import Evaluation
from accuracy_booster.training.opening_to_measure import Opened

BATCH = 64  # calibration images that are read at once


def measure_file(session: Session, opened: Opened) -> Evaluation:
    """The accuracy of an exported file on the images that a network is measured on.

    The images are those of `opened`, in its size, normalised as the file says. A progress bar is
    shown.

    Args:
        session: the opened file.
        opened: what `open_measured` gave for the run or the module that was exported.

    Raises:
        ValueError: if the file takes images of another size.
        TrainingStopped: if more images cannot be read than `bad_images` allows.
    """
    _check_size(session, opened)
    about = session.about
    opened = replace(opened, data=replace(opened.data, mean=about.mean, std=about.std))
    return measure_opened(opened, FileNetwork(session))


def differing(a: Evaluation, b: Evaluation) -> int:
    """How many images two networks gave another class; both were measured on the same images."""
    return int((a.answers.given != b.answers.given).sum())


def calibration_batches(session: Session, opened: Opened, count: Any = 256) -> Iterator[np.ndarray]:
    """Images of a split, float32 [N, C, H, W], normalised as a file says.

    They are taken at equal distances from the split, without augmentation, so that they are the
    same each time and of all classes also where the classes stand one after the other. Images that
    cannot be read are left out.

    Args:
        opened: what `open_measured` gave with split="train".
        count: how many; all of them if the split has fewer.

    Raises:
        ValueError: if the file takes images of another size, or for a count below 1.
    """
    if type(count) is not int or count < 1:
        raise ValueError(f"calibration={shown(count)} must be a number of images, >= 1")
    _check_size(session, opened)
    images, transform = opened.loader.dataset.images, opened.loader.dataset.transform
    numbers = np.linspace(0, len(images), min(count, len(images)), endpoint=False, dtype=int)
    chosen = Subset(images, numbers.tolist())
    loader = Loader(chosen, transform, BATCH, shuffled=False, shape=opened.data.input_size)
    for batch in loader.batches(0):
        for reason in batch.unreadable.values():
            warnings.warn(f"left out, {reason}", stacklevel=2)
        if len(batch):
            yield normalise(batch.images, session.about.mean, session.about.std).numpy()


def _check_size(session: Session, opened: Opened) -> None:
    own, given = tuple(session.about.input_size), opened.data.input_size
    if own != given:
        raise ValueError(
            f"{session.path} takes images of {' x '.join(map(str, own))}, and those of "
            f"{opened.data.name} are {' x '.join(map(str, given))}; give "
            f"image_size={own[1]},{own[2]} and in_chans={own[0]}"
        )
