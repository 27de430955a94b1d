"""Loads trained weights into a new detector: those of its backbone, or of a whole detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.errors import shown
from accuracy_booster.models import create_model
from accuracy_booster.models.weight_files import read_weights
from accuracy_booster.models.weights import GATES, Loaded, load_weights
from accuracy_booster.training.initial_weights import run_of, told
from accuracy_booster.training.train_config import TrainConfig

Tensors = Mapping[str, torch.Tensor]
# the prefixes that a detector puts before the names of its classification network
BACKBONE = ("backbone.body.", "roi_heads.box_head.")
PREDICTOR = "roi_heads.box_predictor."


def start_from_weights(
    detector: nn.Module, config: DetectConfig, classes: Sequence[str]
) -> tuple[str, bool]:
    """Load `config.weights` into a new detector, in place.

    Args:
        classes: the names of the detector's classes. The predictor of a run is loaded only if the
            run's classes are the same.

    Returns:
        A line that says what was loaded, and whether the gates have no trained weights.

    Raises:
        ValueError: for weights of another network.
    """
    source = str(config.weights)
    found = run_of(source, (TrainConfig, DetectConfig))
    tensors = read_weights(source) if found is None else found[0].weights()
    unwrapped = _without_wrappers(tensors)
    if any(name.startswith(BACKBONE[0]) for name in unwrapped):
        same = found is None or found[0].info["classes"] == list(classes)
        loaded = _load_detector(detector, unwrapped, source, keep_predictor=same)
    else:
        loaded = _load_backbone(detector, config, tensors, source)
    new_gates = any(GATES in f".{name}" for name in loaded.new)
    return f"starting from {source}: {', '.join(told(loaded))}", new_gates


def _without_wrappers(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The tensors without prefixes that wrappers put before all names of a detector.

    `models.weights` also removes prefixes such as "backbone.", but a detector's own names begin so.
    """
    state = dict(tensors)
    for prefix in ("module.", "_orig_mod.", "model."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _load_detector(
    detector: nn.Module, tensors: Tensors, source: str, *, keep_predictor: bool
) -> Loaded:
    """Load the weights of a whole detector, in place.

    Args:
        keep_predictor: whether the weights of the predictor are loaded if their shapes fit.
    """
    has_gates = any(GATES in f".{name}" for name in tensors)
    own = detector.state_dict()
    state = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(PREDICTOR)
        or (keep_predictor and name in own and own[name].shape == tensor.shape)
    }
    others = [n for n, t in state.items() if n in own and own[n].shape != t.shape]
    if others:
        raise ValueError(
            f"weights={source!r} are of another detector: {len(others)} tensors have other shapes, "
            f"such as {shown(others[0])}: {list(state[others[0]].shape)} in the file and "
            f"{list(own[others[0]].shape)} here; give the backbone, block and head that they are of"
        )
    try:
        # torchvision's hooks rename tensors of its older versions
        found = detector.load_state_dict(state, strict=False)
    except RuntimeError as e:
        reason = " ".join(str(e).split())[:300]
        raise ValueError(f"weights={source!r} are of another detector: {reason}") from e
    new = [name for name in found.missing_keys if not _is_counter(name)]
    missing = [
        name
        for name in new
        if not name.startswith(PREDICTOR) and (has_gates or GATES not in f".{name}")
    ]
    if missing or found.unexpected_keys:
        name = [*missing, *found.unexpected_keys][0]
        raise ValueError(
            f"weights={source!r} are of another detector: {len(missing)} tensors of this one are "
            f"missing, {len(found.unexpected_keys)} of the file fit nothing (such as "
            f"{shown(name)}); give the backbone, block and head that they are of"
        )
    return Loaded(len(own) - len(found.missing_keys), new)


def _load_backbone(
    detector: nn.Module, config: DetectConfig, tensors: Tensors, source: str
) -> Loaded:
    """Load the weights of the classification network, in place.

    They are first loaded into that network, where `models.weights` matches their names.
    """
    block = None if config.block == "none" else config.block
    network: Any = create_model(config.backbone, block=block)
    loaded = load_weights(network, tensors, source)
    given = network.state_dict()
    own = detector.state_dict()
    gates = [name for name in loaded.new if GATES in f".{name}"]
    fits, lost = {}, []
    for name in own:
        prefix = next((p for p in BACKBONE if name.startswith(p)), None)
        if prefix is None:
            continue
        inner = name.removeprefix(prefix)
        if gates and GATES in f".{inner}":
            continue  # new gates stay as `init` started them in the detector
        if inner in given:
            fits[name] = given[inner]
        elif prefix == BACKBONE[0]:
            lost.append(name)
    if lost:
        raise ValueError(
            f"weights={source!r} do not fill the backbone: {len(lost)} tensors, such as "
            f"{shown(lost[0])}, have no counterpart in {config.backbone}"
        )
    with torch.no_grad():
        for name, tensor in fits.items():
            own[name].copy_(tensor)
    return Loaded(len(fits), gates)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
