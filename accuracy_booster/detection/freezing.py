"""Freezes stages and norms of a detector's backbone, with or without the gates in them.

A gate is a child of the norm that it follows. torchvision freezes layers by name, which freezes the
gates in them too. Here `gates_of_frozen_layers` decides that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from accuracy_booster.detection.norms import HoldsNorms, batch_norms, gates_norms
from accuracy_booster.surgery.listing import attached

LAYERS = 5  # torchvision counts four stages and the stem


@dataclass(frozen=True)
class Part:
    """The stem or a stage of a backbone inside a detector.

    Attributes:
        name: "stem", or the name of the module whose output is the stage's map.
        tensors: the names of its parameters and buffers in the detector's state dict.
        trained: whether it is trained; if not, it is frozen.
    """

    name: str
    tensors: frozenset[str]
    trained: bool


def trained_parts(count: int, trainable_layers: int) -> list[bool]:
    """Whether the stem and each stage after it are trained.

    The number means what it means in torchvision: 0 trains nothing, k the last k stages, and 5
    everything. For a ResNet with its four stages, 4 trains all but the stem.

    Args:
        count: of the stem and the stages.

    Raises:
        ValueError: for a number that is not from 0 to 5.
    """
    if type(trainable_layers) is not int or not 0 <= trainable_layers <= LAYERS:
        raise ValueError(
            f"trainable_layers={trainable_layers!r} must be 0 (the whole backbone is frozen) to 5 "
            "(all of it is trained)"
        )
    if trainable_layers == LAYERS:
        return [True] * count
    return [place >= count - trainable_layers for place in range(count)]


def freeze(model: nn.Module, parts: tuple[Part, ...], *, gates: str, norms: str) -> None:
    """Freeze the parts that are not trained, and set how norms work, in place.

    Norms of the base network in frozen parts are always frozen.

    Args:
        parts: of the backbone.
        gates: what happens to gates in frozen parts: "frozen" (parameters and statistics) or
            "trained".
        norms: "frozen", "synchronised" or "normal"; see `norms.py`.

    Warns:
        If a frozen norm has the weight zero: it is then always zero, and so is what it feeds.
    """
    of_gates = {id(p) for gate in attached(model).values() for p in gate.parameters()}
    frozen = {name for part in parts if not part.trained for name in part.tensors}
    for name, parameter in model.named_parameters():
        if name in frozen and not (gates == "trained" and id(parameter) in of_gates):
            parameter.requires_grad_(False)
    dead: list[str] = []
    for prefix, holder in norm_holders(model):
        inside, held = gates_norms(holder), []
        for name, norm in batch_norms(holder).items():
            of_gate, in_frozen = name in inside, f"{prefix}.{name}.running_mean" in frozen
            if norms == "frozen" or (in_frozen and not (of_gate and gates == "trained")):
                held.append(name)
                if not of_gate:
                    for parameter in norm.parameters(recurse=False):
                        parameter.requires_grad_(False)
                    if isinstance(norm.weight, nn.Parameter) and not norm.weight.any():
                        dead.append(name)
        holder.set_norms(
            frozen=tuple(held),
            all_frozen=norms == "frozen",
            synchronised=norms == "synchronised",
        )
    if dead:
        warnings.warn(
            f"{len(dead)} norms of the backbone (such as {dead[0]!r}) have weight zero and are "
            "frozen so: nothing comes through them, ever; take trained weights, norms='normal', or "
            "timm's zero_init_last=False",
            stacklevel=3,
        )


def norm_holders(model: nn.Module) -> Iterator[tuple[str, HoldsNorms]]:
    """The parts of a detector that look after their norms, by name."""
    for name, module in model.named_modules():
        if isinstance(module, HoldsNorms):
            yield name, module
