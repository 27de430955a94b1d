"""What is exported: the network of a run, or a module, with what a file says of it."""

# N images, C channels, H W space

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.normalisation import normalise
from accuracy_booster.data.picture_arrays import Picture
from accuracy_booster.deploy.public_settings import command, network_name, public_settings
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.exported.about import About
from accuracy_booster.models.preprocessing import classes_of
from accuracy_booster.prediction.given_images import given_images
from accuracy_booster.prediction.preprocessing import Inputs, inputs_of_module, inputs_of_run
from accuracy_booster.progress import note
from accuracy_booster.surgery import gate_record
from accuracy_booster.surgery.listing import attached
from accuracy_booster.training.answers import names_of_outputs
from accuracy_booster.training.identity import versions
from accuracy_booster.training.loading_run import load_run
from accuracy_booster.training.network_outputs import try_network
from accuracy_booster.training.opening_to_measure import open_measured
from accuracy_booster.training.run_directory import Run


@dataclass(frozen=True)
class Subject:
    """A network that is to be exported.

    Attributes:
        network: a copy on the CPU, float32, in eval mode.
        about: what the file will say of it.
        images: so many real images as the network takes them, float32 [N, C, H, W]; fewer where
            there are fewer.
        source: where the images are from, in words.
    """

    network: nn.Module
    about: About
    images: Callable[[int], torch.Tensor]
    source: str


def of_run(path: Path, *, model: Any = None, images: Any = None, **where: Any) -> Subject:
    """The network of a finished run.

    Args:
        model: the network itself, for a run that trained one of your own.
        images: images of the user's own, as `predict` takes them, in place of the run's.
        where: `data`, `split` and `data_dir`, as for `evaluate`.

    Raises:
        ValueError: for a directory without a finished run of a classification.
    """
    run, config = Run.open(path)
    inputs = inputs_of_run(run, config)
    network = load_run(path, model=model).float()
    about = _about(
        network,
        inputs,
        name=network_name(config),
        block=config.block,
        classes=run.info["classes"],
        training={"run": run.id, "command": command(config), **public_settings(config)},
        metrics={"test": run.info.get("test")},
    )
    if images is not None:
        return Subject(network, about, _given(images, inputs), "given images")
    try:
        opened = open_measured(path, model=model, device="cpu", workers=0, **where)
    except (ValueError, TrainingStopped, OSError) as e:
        if any(value is not None for value in where.values()):
            raise  # the user named the data
        note(f"the run's data cannot be read ({e}); random images take their place")
        return Subject(network, about, _random(inputs), "random images")
    source = f"{opened.split} images of {opened.data.name}"
    return Subject(network, about, _of_loader(opened.loader, inputs), source)


def of_module(network: nn.Module, *, images: Any = None, batch: int | None = None) -> Subject:
    """A module that says how its images are made, as those of timm and of `ab.load_run` do.

    Args:
        images: as above.
        batch: the number of images that it takes; None for any number.

    Raises:
        ValueError: for one that does not.
    """
    inputs = inputs_of_module(network)
    known = getattr(network, "pretrained_cfg", None) or {}
    gates = attached(network)
    recipes = list(dict.fromkeys(str(gate.recipe) for gate in gates.values()))
    copied = copy.deepcopy(network).cpu().float().eval()
    about = _about(
        copied,
        inputs,
        name=str(known.get("architecture") or type(network).__name__),
        block="\n".join(recipes) if recipes else "none",
        classes=classes_of(network) or known.get("label_names") or (),
        batch=batch,
        training={"gates": gate_record(network)} if gates else {},
        metrics={},
    )
    if images is not None:
        return Subject(copied, about, _given(images, inputs), "given images")
    return Subject(copied, about, _random(inputs), "random images")


def _about(
    network: nn.Module,
    inputs: Inputs,
    *,
    name: str,
    classes: Sequence[Any],
    batch: int | None = None,
    **known: Any,
) -> About:
    interpolation, crop_pct, crop_mode = inputs.how
    images = 2 if batch is None else batch
    remedy = f"look at its input_size; if it does not take {images} images, give batch= (--batch)"
    outputs = try_network(
        *(network, name, inputs.size, torch.device("cpu")), images=images, remedy=remedy
    )
    # JSON has no tuples: a file gives back what it was given
    plain = {k: json.loads(json.dumps(v)) if isinstance(v, dict) else v for k, v in known.items()}
    return About(
        network=name,
        classes=tuple(names_of_outputs(list(map(str, classes)), None, outputs)),
        input_size=inputs.size,
        mean=inputs.mean,
        std=inputs.std,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        batch=batch,
        versions=versions(),
        **plain,
    )


def _of_loader(loader: Loader, inputs: Inputs) -> Callable[[int], torch.Tensor]:
    def images(count: int) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for batch in loader.batches(0, device=torch.device("cpu")):
            found.append(normalise(batch.images, inputs.mean, inputs.std))
            if sum(map(len, found)) >= count:
                break
        return torch.cat(found)[:count]

    return images


def _given(given: Picture | Iterable[Picture], inputs: Inputs) -> Callable[[int], torch.Tensor]:
    def images(count: int) -> torch.Tensor:
        part = next(iter(given_images(given, inputs.size[0], count)))
        size = min(count, len(part))
        loader = Loader(part, inputs.transform, size, shuffled=False, workers=0, shape=inputs.size)
        return _of_loader(loader, inputs)(size)

    return images


def _random(inputs: Inputs) -> Callable[[int], torch.Tensor]:
    def images(count: int) -> torch.Tensor:
        pixels = torch.randint(
            0, 256, (count, *inputs.size), dtype=torch.uint8, generator=torch.Generator()
        )
        return normalise(pixels, inputs.mean, inputs.std)

    return images
