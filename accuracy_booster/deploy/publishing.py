"""`ab.save_pretrained`: a directory from which timm and others load a run's network.

config.json         the network and how its images are made, in timm's format
model.safetensors   its weights
README.md           the model card (`model_card`)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster.deploy.card_costs import costs_of
from accuracy_booster.deploy.loading_text import loading_text
from accuracy_booster.deploy.model_card import Subject, model_card
from accuracy_booster.deploy.public_settings import network_name
from accuracy_booster.deploy.saved_form import Loader, check_loads, saved_form
from accuracy_booster.errors import shown
from accuracy_booster.files import (
    check_folder,
    check_no_others,
    pack,
    partial_name,
    unpack,
    write,
)
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_metadata import network_metadata
from accuracy_booster.training.own_objects import NOTHING
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import WEIGHTS, is_run
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.train_result import TrainResult, place_of, result_of

CONFIG, CARD = "config.json", "README.md"
FILES = (CONFIG, WEIGHTS, CARD)


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        directory: where it is; None if it was only uploaded.
        architecture: what timm calls the network.
        loader: who builds it again: "timm", "registered" (timm after
            `ab.integrations.timm.register()`) or "own code".
        code: the lines of Python that load it.
        top1: the accuracy of the run in %.
        interval: its 95 % interval, in %.
        images: the test images that it was measured on.
        parameters: of the network.
        sizes: {file: bytes}.
        url: where it was uploaded to; None if it was not.
    """

    directory: Path | None
    architecture: str
    loader: str
    code: str
    top1: float
    interval: tuple[float, float]
    images: int
    parameters: int
    sizes: dict[str, int]
    url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        directory = None if self.directory is None else str(self.directory)
        return {**vars(self), "directory": directory, "interval": list(self.interval)}


def save_pretrained(
    run: str | Path | TrainResult,
    directory: str | Path,
    *,
    model: nn.Module | Callable[..., nn.Module] | str | None = None,
    overwrite: bool = False,
    latency: bool = True,
    device: str | torch.device = "cpu",
) -> Published:
    """Write a run's network into a directory, with the files that timm and the Hub expect.

    `timm.create_model("local-dir:DIRECTORY", pretrained=True)` loads it: a network of timm without
    gates in every process that has timm, others after `ab.integrations.timm.register()`. Before
    anything is written, the network is loaded so, and its tensors, gates and outputs are compared
    with the run's bit for bit. The boosted names are in timm's registry afterwards, where needed.

    Args:
        run: the directory of a finished run, or the model.safetensors in it; or what `ab.train`
            returned.
        directory: a new or empty one.
        model: the network itself, if the run trained a network of your own: as for `ab.train`.
        overwrite: replace the three files in a directory that holds them already.
        latency: time the network for the card, which takes a few seconds.
        device: where it is timed.

    Raises:
        ValueError: for a directory without a finished run, a run of detection, a network that must
            be given and is not, a directory that holds other files, or timm older than 1.0.31 where
            the network needs a boosted name.
        CannotWrite: if a file cannot be written.
    """
    directory = checked_directory(directory, overwrite)
    contents, published = contents_of(run, model=model, latency=latency, device=device)
    return write_files(directory, contents, published)


def contents_of(
    run: str | Path | TrainResult,
    *,
    model: nn.Module | Callable[..., nn.Module] | str | None = None,
    latency: bool = True,
    device: str | torch.device = "cpu",
    repo_id: str | None = None,
) -> tuple[dict[str, bytes], Published]:
    """The bytes of each file of a run's published network, by their names; nothing is written.

    Args:
        repo_id: its name on the Hub, for the card.

    Raises:
        ValueError: as `save_pretrained`.
    """
    path = place_of(run)
    if not isinstance(path, (str, Path)):
        raise ValueError(f"expected a run's directory, got {type(run).__name__}")
    path = Path(path).expanduser()
    path = path.parent if path.name == WEIGHTS else path
    with torch.random.fork_rng(devices=[]):  # building a network draws its first weights
        return _contents_of(path, model, latency, _device(device), repo_id)


def _contents_of(
    path: Path, model: Any, latency: bool, device: torch.device, repo_id: str | None
) -> tuple[dict[str, bytes], Published]:
    opened, config = Run.open(path)
    network = load_network(opened, config, NOTHING.of_run(model))
    network = network.eval().to(memory_format=torch.contiguous_format)
    result = result_of(Classification, opened, config)
    form = saved_form(network, config, opened.info)
    contents = {WEIGHTS: _weights(opened, config), CONFIG: form.text().encode()}
    if form.loader is not Loader.OWN_CODE:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in contents.items():
                (Path(folder) / name).write_bytes(content)
            check_loads(form, Path(folder), network, config)
    costs = costs_of(network, config.input_size, device=device, timed=latency)
    subject = Subject(network, result, opened.info, form, costs)
    contents[CARD] = model_card(subject, repo_id).encode("utf-8", "backslashreplace")
    published = Published(
        directory=None,
        architecture=form.architecture,
        loader=form.loader.value,
        code=loading_text(form, repo_id).code,
        top1=result.test.top1,
        interval=subject.interval,
        images=result.test.images,
        parameters=costs.counted.parameters,
        sizes={name: len(contents[name]) for name in FILES},
    )
    return contents, published


def _weights(run: Run, config: TrainConfig) -> bytes:
    """The run's file of weights; without the folders of a file of code that its metadata names."""
    name = network_name(config)
    if name == config.model:
        return (run.path / WEIGHTS).read_bytes()
    packed = unpack(run.path / WEIGHTS)
    metadata = network_metadata(config.change({"model": name}), run.info)
    return pack(packed.tensors, packed.values, metadata)[0]


def write_files(directory: Path, contents: dict[str, bytes], published: Published) -> Published:
    """Write the files into a directory; returns `published` with it."""
    for name, content in contents.items():
        write(directory / name, content)
    return replace(published, directory=directory)


def checked_directory(directory: str | Path, overwrite: bool) -> Path:
    """Raise ValueError if a directory is not one to write to; returns it."""
    if not isinstance(directory, (str, Path)) or not str(directory):
        raise ValueError(f"directory={shown(directory)} must be the path of a directory")
    path = Path(directory).expanduser()
    check_folder(path)
    if not path.is_dir():
        return path
    if is_run(path):
        raise ValueError(f"{path} is a run's directory; choose one that is new or empty")
    check_no_others(path, {*FILES, *map(partial_name, FILES)}, "published network")
    there = [name for name in FILES if (path / name).exists()]
    if there and not overwrite:
        raise ValueError(
            f"{path} already holds {', '.join(there)}; choose another directory, or --overwrite "
            "(overwrite=True) to replace them, the card with its changes too"
        )
    return path


def _device(given: str | torch.device) -> torch.device:
    try:
        device = torch.device(given)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise ValueError(f"device={shown(str(given))} is not here ({reason}); give cpu") from e
    return device
