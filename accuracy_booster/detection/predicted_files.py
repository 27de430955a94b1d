"""`predict_files`: pictures with the boxes that a detector finds, and one JSON file of all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from accuracy_booster import files
from accuracy_booster.data import image_files
from accuracy_booster.data.found_images import find_images
from accuracy_booster.data.image_errors import UnreadableImage
from accuracy_booster.data.pictures import read
from accuracy_booster.detection.drawing import draw
from accuracy_booster.detection.predicting import Prediction, check_threshold, predict_one

PREDICTIONS = "predictions.json"


@dataclass(frozen=True)
class PredictedFiles:
    """What `predict_files` made.

    Args:
        predictions: of each image that could be read.
        pictures: the file with the boxes of each prediction.
        unreadable: {path: reason} of the other images.
    """

    predictions: list[Prediction] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def predict_files(
    detector: nn.Module,
    classes: Sequence[str],
    paths: Iterable[str | Path],
    output: Path,
    threshold: float = 0.5,
    on_image: Callable[[str, Prediction | None], None] = lambda path, prediction: None,
) -> PredictedFiles:
    """Write OUTPUT/NAME.png with the boxes of each image, and OUTPUT/predictions.json.

    An image that cannot be read is skipped, and named in the result and in predictions.json. Images
    of the same name get NAME.png, NAME-2.png and so on. Only the pictures of an earlier prediction
    into the same directory are overwritten.

    Args:
        detector: as in `predict`.
        classes: the names of the labels from 1 on.
        paths: of files, or of directories for all images below them.
        output: the directory.
        threshold: the lowest score that counts, 0..1.
        on_image: called after each image with its path and its prediction, which is None if the
            image could not be read.

    Raises:
        CannotWrite: if a file cannot be written.
        ValueError: if no image can be read, the output directory holds other files, or for the
            reasons of `predict`.
    """
    check_threshold(threshold)
    sources = find_images(paths)
    names = _names(sources, output, _earlier(output))
    about = {"classes": list(classes), "threshold": threshold}
    # written first: so a later prediction into this directory knows that the pictures are ours
    begun = {**about, "finished": False, "images": [], "pictures": names}
    files.write_json(output / PREDICTIONS, begun)
    made = PredictedFiles()
    for path, name in zip(sources, names, strict=True):
        try:
            pixels = read(path)
        except UnreadableImage as e:
            made.unreadable[path] = str(e)
            on_image(path, None)
            continue
        prediction = predict_one(detector, pixels, path, classes, threshold)
        encoded = io.BytesIO()
        draw(pixels, prediction).save(encoded, "PNG")
        files.write(output / name, encoded.getvalue())
        made.predictions.append(prediction)
        made.pictures.append(output / name)
        on_image(path, prediction)
    images = [
        {**prediction.to_dict(), "picture": picture.name}
        for prediction, picture in zip(made.predictions, made.pictures, strict=True)
    ]
    rest = {"finished": True, "images": images, "unreadable": made.unreadable, "pictures": names}
    files.write_json(output / PREDICTIONS, {**about, **rest})
    if not made.predictions:
        first = next(iter(made.unreadable.values()))
        raise ValueError(f"none of {len(sources)} images can be read; the first: {first}")
    return made


def _earlier(output: Path) -> set[str]:
    """The names of the pictures that an earlier prediction made in a directory.

    Raises:
        ValueError: if it is a file, or holds files that are not of an earlier prediction.
    """
    files.check_folder(output)
    if not output.is_dir():
        return set()
    if not (output / PREDICTIONS).exists():
        files.check_no_others(output, (), PREDICTIONS)
        return set()
    try:
        pictures = files.read_json(output / PREDICTIONS, must_hold_hash=True)["pictures"]
    except (OSError, ValueError, LookupError) as e:
        raise ValueError(
            f"{output / PREDICTIONS} is of no earlier prediction ({e}); choose another directory"
        ) from None
    return set(pictures)


def _names(sources: Sequence[str], output: Path, earlier: set[str]) -> list[str]:
    """The name of a PNG file for each source, all different.

    None is that of a source, or of a file that no earlier prediction made.
    """
    kept = {os.path.realpath(source) for source in sources}
    taken: set[str] = {PREDICTIONS.casefold()}
    names = []
    for source in sources:
        stem, count = Path(source).stem, 1
        while True:
            name = f"{stem}.png" if count == 1 else f"{stem}-{count}.png"
            place, count = output / name, count + 1
            others = os.path.lexists(place) and name not in earlier
            # some file systems do not distinguish A from a, or two encodings of an accent
            key = image_files.same_name(name).casefold()
            if key not in taken and not others and os.path.realpath(place) not in kept:
                break
        taken.add(key)
        names.append(name)
    return names
