"""Networks of torch that are ready to predict: those of runs, and modules."""

# N images of a batch, C channels, H W space, K outputs

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.class_names import check_names
from accuracy_booster.data.normalisation import normalise
from accuracy_booster.exported.predicted import Prediction
from accuracy_booster.models.preprocessing import classes_of
from accuracy_booster.prediction.given_images import GivenImages
from accuracy_booster.prediction.preprocessing import Inputs, inputs_of_module, inputs_of_run
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.answers import names_of_outputs
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.own_objects import NOTHING
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.train_result import place_of


@dataclass(frozen=True)
class Predictor:
    """A network that is ready to predict.

    Attributes:
        inputs: how its images are made.
        classes: the name of each output; a function of their number, K.
        device: where the images go.
        autocast: the context of the precision.
    """

    network: nn.Module
    inputs: Inputs
    classes: Callable[[int], Sequence[str]]
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]


def predictor_of(
    network: Any,
    device: torch.device | str | None = None,
    model: Any = None,
    classes: Sequence[str] | None = None,
) -> Predictor:
    """The network that is given to `predict`, ready to predict; arguments and errors as there."""
    network = place_of(network)
    if isinstance(network, (str, Path)):
        if classes is not None:
            raise ValueError("classes=... is for a module; a run knows the names of its classes")
        return open_run(network, device, model)
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(f"expected a run's directory or a network, got {kind}")
    if model is not None:
        raise ValueError("model=... is for a run's directory; the first argument is a network")
    return open_module(network, device, classes)


def open_run(
    path: str | Path, device: torch.device | str | None = None, model: Any = None
) -> Predictor:
    """The network of a finished run, ready to predict; `model` as for `predict`.

    Raises:
        ValueError: for a directory without a finished run of a classification.
    """
    run, config = Run.open(Path(path))
    if device is not None:
        config = config.change({"device": str(device)})
    network = load_network(run, config, NOTHING.of_run(model))
    accelerator = make_accelerator(config)
    network.to(accelerator.device)
    return Predictor(
        *(network, inputs_of_run(run, config), _named(run.info["classes"])),
        *(accelerator.device, accelerator.autocast),
    )


def open_module(
    network: nn.Module,
    device: torch.device | str | None = None,
    classes: Sequence[str] | None = None,
) -> Predictor:
    """A module that says how its images are made, ready to predict.

    Raises:
        ValueError: for one that does not.
    """
    if classes is not None:
        check_names(classes)
    inputs = inputs_of_module(network)
    if device is not None:
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        network.to(auto if device == "auto" else device)
    at = next(network.parameters(), torch.empty(0)).device
    known: Any = classes if classes is not None else classes_of(network)
    if known is None:
        known = (getattr(network, "pretrained_cfg", None) or {}).get("label_names")
    return Predictor(
        network, inputs, _named(known or (), all_of_them=classes is not None), at, nullcontext
    )


def folded(predictor: Predictor, batch_size: int) -> Predictor:
    """The same with the network folded for inference, as `ab.fold` does.

    Convolutions stay torch's, so that the same images give the same bits in each run.
    """
    from accuracy_booster.fastpath import fold

    example = torch.zeros(batch_size, *predictor.inputs.size, device=predictor.device)
    network = fold(copy.deepcopy(predictor.network).eval(), example=example, kernel="off")
    return replace(predictor, network=network)


def predict_with(
    predictor: Predictor,
    given: Iterable[GivenImages],
    *,
    top: int,
    batch_size: int,
    workers: int,
) -> Iterator[Prediction]:
    """What `predict` returns, for data sets of images."""
    for images in given:
        loader = Loader(
            images,
            predictor.inputs.transform,
            min(batch_size, len(images)),
            shuffled=False,
            workers=workers,
            shape=predictor.inputs.size,
        )
        done = 0
        for batch in loader.batches(0, device=predictor.device):
            count = len(batch.labels)
            found = _top(predictor, batch.images, top) if count else []
            read = dict(zip(batch.indices.tolist(), found, strict=True))
            for index in range(done, done + count + len(batch.unreadable)):
                name = images.called(index)
                if index in read:
                    yield Prediction(name, *read[index])
                else:
                    yield Prediction(name, (), (), unreadable=batch.unreadable[index])
            done += count + len(batch.unreadable)


@torch.no_grad()
def _top(
    predictor: Predictor, pixels: torch.Tensor, top: int
) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    """The classes and the probabilities of each image, uint8 [N, C, H, W]."""
    inputs = predictor.inputs
    with in_eval_mode(predictor.network), predictor.autocast():
        output = predictor.network(normalise(pixels, inputs.mean, inputs.std))
    logits = split_outputs(output)[0].float()  # [N, K]
    # ordered by the logits, as for measuring: probabilities of very sure networks are equal
    chosen = logits.topk(min(top, logits.shape[1])).indices
    values = logits.softmax(1).gather(1, chosen)
    names = predictor.classes(logits.shape[1])
    return [
        (tuple(names[k] for k in row), tuple(probabilities))
        for row, probabilities in zip(chosen.tolist(), values.tolist(), strict=True)
    ]


def _named(classes: Sequence[str], *, all_of_them: bool = False) -> Callable[[int], Sequence[str]]:
    """The names of so many outputs; "output 7" for one without a name, unless all have one."""

    def names(outputs: int) -> Sequence[str]:
        if len(classes) > outputs or (all_of_them and len(classes) < outputs):
            raise ValueError(
                f"there are {len(classes)} names of classes, and the network has {outputs} "
                f"outputs; give {outputs} names, one for each output in their order"
            )
        return names_of_outputs(classes, None, outputs)

    return names
