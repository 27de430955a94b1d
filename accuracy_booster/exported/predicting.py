"""The classes of images by an exported file, in the file's own runtime and without torch."""

# N images of a batch, C channels, H W space, K classes

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np

from accuracy_booster.data.decoding import read_image
from accuracy_booster.data.image_errors import TooManyPixels, UnreadableImage
from accuracy_booster.data.picture_arrays import (
    Numbered,
    Picture,
    array_of,
    numbered,
    recoloured_array,
)
from accuracy_booster.exported.predicted import Prediction
from accuracy_booster.exported.preprocessing import Preprocessing
from accuracy_booster.exported.sessions import Session, open_file
from accuracy_booster.progress import printable


def predict_with_file(
    file: str | Path | Session,
    images: Picture | Iterable[Picture],
    *,
    top: int = 5,
    batch_size: int = 64,
    workers: int = 0,
) -> Iterator[Prediction]:
    """The most probable classes of images, image by image, as `ab.predict` gives them.

    Args:
        file: an exported file, or what `open_file` gave for one.
        images: as for `ab.predict`.
        top: how many classes; fewer if the network has fewer.
        workers: how many threads read files; 0: this one.

    Raises:
        ValueError: as `open_file`, and for images as `ab.predict`.
    """
    session = file if isinstance(file, Session) else open_file(file)
    if session.about is None:
        raise ValueError(f"{session.path} does not say how its images are made (check=False)")
    try:
        make = Preprocessing(session.about)
    except ValueError as e:
        raise ValueError(f"{session.path}: {e}") from e
    return _predictions(session, make, iter(numbered(images)), top, batch_size, workers)


def _predictions(
    session: Session,
    make: Preprocessing,
    pairs: Iterator[Numbered],
    top: int,
    batch_size: int,
    workers: int,
) -> Iterator[Prediction]:
    with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
        while part := list(islice(pairs, batch_size)):
            inputs = _inputs(make, part, pool)
            read = [made for made in inputs if isinstance(made, np.ndarray)]
            found = iter(_top(session, np.stack(read), top) if read else ())
            for (number, item), made in zip(part, inputs, strict=True):
                name = item if isinstance(item, str) else number
                if isinstance(made, str):
                    yield Prediction(name, (), (), unreadable=made)
                else:
                    yield Prediction(name, *next(found))


def _inputs(
    make: Preprocessing, part: Sequence[Numbered], pool: ThreadPoolExecutor | None
) -> list[np.ndarray | str]:
    """The input of each image, float32 [C, H, W], or why it cannot be read."""
    # threads read files alone: a PIL image that is given twice must not be decoded twice at a time
    jobs = [
        pool.submit(_input, make, *pair) if pool and isinstance(pair[1], str) else None
        for pair in part
    ]
    return [
        _input(make, *pair) if job is None else job.result()
        for pair, job in zip(part, jobs, strict=True)
    ]


def _input(make: Preprocessing, number: int, item: str | Picture) -> np.ndarray | str:
    where = printable(item) if isinstance(item, str) else f"number {number}"
    try:
        if isinstance(item, str):
            return make(recoloured_array(read_image(item), make.chans))
        return make(array_of(item, number, make.chans))
    except UnreadableImage as e:
        return str(e)
    except TooManyPixels as e:
        return f"cannot read the image {where}: {e}"


def _top(
    session: Session, images: np.ndarray, top: int
) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    """The classes and the probabilities of each image, float32 [N, C, H, W]."""
    logits, classes = session(images), session.about.classes  # [N, K]
    if logits.shape != (len(images), len(classes)):
        raise ValueError(
            f"{session.path} gives outputs {[*logits.shape]} for {len(images)} images and has the "
            f"names of {len(classes)} classes; export the run again"
        )
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    # ordered by the logits, as for a run: probabilities of very sure networks are equal
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    values = np.take_along_axis(probabilities, chosen, axis=1)
    return [
        (tuple(classes[k] for k in row), tuple(shares))
        for row, shares in zip(chosen.tolist(), values.tolist(), strict=True)
    ]
