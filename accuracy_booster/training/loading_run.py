"""`ab.load_run` and `ab.create_model`: the network of a finished run, ready to be used."""

# C channels, H W space, K classes

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster import models
from accuracy_booster.errors import shown
from accuracy_booster.files import unpack
from accuracy_booster.models.heads import replace_heads
from accuracy_booster.models.registry import is_model
from accuracy_booster.spelling import renamed
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_metadata import pretrained_cfg
from accuracy_booster.training.own_objects import NOTHING
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import BEST, CONFIG, WEIGHTS
from accuracy_booster.training.train_result import TrainResult, place_of

FILES = {"model": WEIGHTS, "best": BEST}


def load_run(
    run: str | Path | TrainResult,
    *,
    model: nn.Module | Callable[..., nn.Module] | str | None = None,
    device: str | torch.device | None = None,
    which: str = "model",
) -> nn.Module:
    """The network of a finished run, in eval mode, with its weights, classes and preprocessing.

    Args:
        run: the directory of a run, or the model.safetensors in it; or what `ab.train` returned.
        model: the network itself, if the run trained a network of your own: as for `ab.train`. It
            is copied.
        device: where the network goes; by default the CPU.
        which: "model", the weights that the run ended with and was measured by, or "best", those of
            its best epoch on the validation split.

    Returns:
        The network: images [N, C, H, W], normalised, to logits [N, K]. `network.classes` are the
        names of the classes in the order of the logits. `network.pretrained_cfg` is as timm's:
        input_size, mean, std, interpolation, crop_pct, crop_mode, num_classes, label_names. So
        `timm.data.resolve_model_data_config(network)` gives the transform of its images.

    Raises:
        ValueError: for a directory without a finished run, damaged weights, a network that must be
            given and is not, or another network than the run's.
    """
    run = place_of(run)
    if not isinstance(run, (str, Path)):
        raise ValueError(f"expected a run's directory, got {type(run).__name__}")
    if which not in FILES:
        raise ValueError(f"which={shown(which)} must be 'model' or 'best'")
    path = Path(run).expanduser()
    path = path.parent if path.name in FILES.values() else path
    opened, config = Run.open(path)
    own = NOTHING.of_run(model)
    weights = None
    if which == "best":
        if not (path / BEST).is_file():
            raise ValueError(
                f"the run in {path} has no {BEST}, which is written where there is a validation "
                "split; leave which out"
            )
        packed = unpack(path / BEST)
        if packed.sha256 != (opened.info.get("best") or {}).get("sha256"):
            raise ValueError(
                f"{path / BEST} is of another run: its hash is not the one in run.json"
            )
        weights = packed.tensors
    network = load_network(opened, config, own, weights)
    about = pretrained_cfg(config, opened.info)
    for name, value in (("pretrained_cfg", about), ("default_cfg", about)):
        setattr(network, name, value)
    network.classes = tuple(about["label_names"])  # type: ignore[assignment]
    if device is not None:
        network.to(device)
    return network.eval()


@renamed("recipe", "block")
@functools.wraps(models.create_model)
def create_model(name: str | Path, **options: Any) -> nn.Module:
    """`models.create_model`, which also takes a run's directory (see `load_run`)."""
    if not _is_run(name):
        return models.create_model(name, **options)  # type: ignore[arg-type]
    num_classes = options.pop("num_classes", None)
    if given := [n for n, v in options.items() if v is not None and n != "model"]:
        raise ValueError(
            f"{shown(str(name))} is a run, whose network has its own {', '.join(given)}; leave "
            f"{'them' if len(given) > 1 else 'it'} out, or start a training from it by "
            f"weights={shown(str(name))}"
        )
    network: Any = load_run(name, **options).train()
    if num_classes is None or num_classes == network.pretrained_cfg["num_classes"]:
        return network
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(f"num_classes={shown(num_classes)} must be a whole number >= 1 for a run")
    replace_heads(network, num_classes)
    about = {**network.pretrained_cfg, "num_classes": num_classes}
    del network.classes, about["label_names"]
    network.pretrained_cfg = network.default_cfg = about
    return network


def _is_run(name: Any) -> bool:
    if isinstance(name, Path):
        return True
    if not isinstance(name, str) or is_model(name):
        return False
    path = os.path.expanduser(name)
    # os.path takes any text: a name that is no path, or too long for one, is no run
    return os.path.basename(path) in FILES.values() or os.path.isfile(os.path.join(path, CONFIG))
