"""`predict`: the classes of images and their probabilities, as values.

An exported file is run without torch, so torch is imported for runs and modules alone.
"""

# C channels, H W space

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_booster.data.picture_arrays import Picture
from accuracy_booster.errors import shown
from accuracy_booster.exported.formats import is_exported
from accuracy_booster.exported.predicted import Prediction
from accuracy_booster.exported.predicting import predict_with_file
from accuracy_booster.exported.sessions import Session

if TYPE_CHECKING:
    import torch
    from torch import nn

    from accuracy_booster.training.train_result import TrainResult


def predict(
    network: str | Path | nn.Module | TrainResult | Session,
    images: Picture | Iterable[Picture],
    *,
    model: Any = None,
    top: int = 5,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    workers: int = 0,
    fold: bool = False,
    classes: Sequence[str] | None = None,
) -> Iterator[Prediction]:
    """The most probable classes of images, image by image.

    The images are made as the run's test images: the same size, crop, interpolation and
    normalisation. So over a test folder the first class is right as often as `ab.evaluate` says.

    An exported file says itself how its images are made, and its own runtime runs it: the classes
    and probabilities are the run's. Files .onnx and .xml are predicted without torch.

    Args:
        network: a run's directory, or what `ab.train` returned for it; an exported file, or what
            `ab.exported.open_file` gave for one; or a network that says how its images are made,
            as those of timm and of `ab.load_run` do (`pretrained_cfg`). It is in eval mode only
            meanwhile.
        images: paths of files, of directories for all images below them, or patterns such as
            "photos/**/*.jpg"; PIL images; tensors, uint8 [C, H, W]; arrays, uint8 [H, W, 3] or
            [H, W]. Files and PIL images are turned upright. One, a list, or an iterator, of which
            a few batches are held at a time.
        model: the network itself, for a run that trained one of your own: as for `ab.train`.
        top: how many classes; fewer if the network has fewer.
        device: "auto", "cpu" or "cuda". By default a run's own; a module stays where it is. Files
            are run on the CPU.
        workers: how many processes read images; 0: this process. For a file they are threads.
        fold: predict with the network as `ab.fold` makes it for inference. A file is folded.
        classes: of a module, the names of its outputs; by default its own `classes`, or the
            `label_names` of its `pretrained_cfg`.

    Returns:
        A `Prediction` for each image, in the order in which they are given. Of an image that cannot
        be read, `unreadable` says why, and `classes` is empty.

    Raises:
        ValueError: for a directory without a finished run, a file that is not an exported one or
            whose runtime is not installed, a module that does not say how its images are made, a
            path that does not exist, no images, a tensor or an array of another shape or type, or
            an argument out of range.
    """
    for name, value, least in (
        ("top", top, 1),
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
    ):
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={shown(value)} must be a whole number >= {least}")
    if is_file(network):
        check_options_of_file(model=model, device=device, fold=fold, classes=classes)
        return predict_with_file(network, images, top=top, batch_size=batch_size, workers=workers)  # type: ignore[arg-type]
    from accuracy_booster.prediction.given_images import given_images
    from accuracy_booster.prediction.predictors import folded, predict_with, predictor_of

    predictor = predictor_of(network, device, model, classes)
    given = given_images(images, predictor.inputs.size[0], 4 * batch_size)
    if fold:
        predictor = folded(predictor, batch_size)
    return predict_with(predictor, given, top=top, batch_size=batch_size, workers=workers)


def is_file(network: Any) -> bool:
    """Whether what is given to `predict` is a file, and neither a run's directory nor a module."""
    if not isinstance(network, (str, Path)):
        return isinstance(network, Session)
    path = Path(network).expanduser()
    return path.is_file() or (is_exported(path) and not path.is_dir())


def check_options_of_file(
    *, model: Any = None, device: Any = None, fold: bool = False, classes: Any = None
) -> None:
    """Raise ValueError for options of `predict` that make no sense for an exported file."""
    if model is not None:
        raise ValueError("model=... is for a run's directory; an exported file holds its network")
    if fold:
        raise ValueError("fold=True is for a run or a network; an exported file is folded already")
    if classes is not None:
        raise ValueError("classes=... is for a module; a file knows the names of its classes")
    if device is not None and str(device) not in ("auto", "cpu"):
        raise ValueError(
            f"device={shown(str(device))}: an exported file runs on the CPU; use 'cpu' or 'auto'"
        )
