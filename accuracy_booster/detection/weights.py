"""Start a detector from trained weights: of its backbone, or of a whole detector."""

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
# where a detector has the modules of its classification network, by the names that they have there
BACKBONE = ("backbone.body.", "roi_heads.box_head.")
PREDICTOR = "roi_heads.box_predictor."


def start_from_weights(
    detector: nn.Module, config: DetectConfig, classes: Sequence[str]
) -> tuple[str, bool]:
    """Load `config.weights` into a fresh detector, in place.

    Returns:
        A line that says what came, and whether the gates, if there are any, are new.

    Raises:
        ValueError: for weights of another network.
    """
    source = str(config.weights)
    found = run_of(source, (TrainConfig, DetectConfig))
    tensors = read_weights(source) if found is None else found[0].weights()
    plain = _without_wrappers(tensors)
    if any(name.startswith(BACKBONE[0]) for name in plain):
        same = found is None or found[0].info["classes"] == list(classes)
        loaded = _load_detector(detector, plain, source, keep_predictor=same)
    else:
        loaded = _load_backbone(detector, config, tensors, source)
    new_gates = any(GATES in f".{name}" for name in loaded.new)
    return f"starting from {source}: {', '.join(told(loaded))}", new_gates


def _without_wrappers(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Names without the prefixes that wrappers around a detector give."""
    state = dict(tensors)
    for prefix in ("module.", "_orig_mod.", "model."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _load_detector(
    detector: nn.Module, tensors: Tensors, source: str, *, keep_predictor: bool
) -> Loaded:
    """Weights of a whole detector; its predictor stays fresh where the classes are others."""
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
        # its hooks know the names that older versions of torchvision gave
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
    """Weights of the classification network, by way of that network, which knows its own names."""
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
            continue  # the detector's own new gates, which started as `init` says
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
