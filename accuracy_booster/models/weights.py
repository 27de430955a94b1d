"""Match the tensors of a file to a network by name, whatever wrapped the network that was saved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from accuracy_booster.errors import shown
from accuracy_booster.models.heads import heads
from accuracy_booster.models.input_conv import adapted_to_images
from accuracy_booster.models.weight_files import Tensors

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "network.", "net.", "encoder.")
# What torch.compile, FSDP and activation checkpointing insert anywhere in a name.
WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
GATES = ".recalibrate."


@dataclass(frozen=True)
class Loaded:
    """A summary of what was loaded from a file.

    Attributes:
        tensors: how many of the network's tensors came from the file.
        new: the names of tensors that did not: of heads for other classes, and of gates.
        unused: how many of the file's tensors belong to a module around the network.
        adapted: the name of the first convolution, if it was adapted to images of other channels.
    """

    tensors: int
    new: list[str]
    unused: int = 0
    adapted: str | None = None


def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> Loaded:
    """Copy tensors of a file into a network, matched by `match_weights`.

    Args:
        source: the file's name, for messages.

    Raises:
        ValueError: if they do not fit. The network is then unchanged.
    """
    fitting, loaded = match_weights(model, tensors, source)
    own = model.state_dict()
    with torch.no_grad():
        for name, value in fitting.items():
            own[name].copy_(value)
    return loaded


def match_weights(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str
) -> tuple[Tensors, Loaded]:
    """The tensors of a file by the names that a network has for them, and a summary.

    Prefixes of wrappers (`module.`, `_orig_mod.`, `model.`, `backbone.`, ...) are removed. A head
    for another number of classes is left out, and so are gates if the file has none: the network
    keeps its own values there.

    Raises:
        ValueError: if other tensors are missing, left over, or of another shape.
    """
    own = {n: t for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    plain = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    given = _without_prefixes(plain, set(own))
    unused = len(plain) - len(given)
    outer = {f"{name}.{part}" for name in heads(model) for part in ("weight", "bias")} & set(own)
    given, adapted = adapted_to_images(_with_head(given, own, outer), own)
    other = [n for n in given if n in own and given[n].shape != own[n].shape]
    new = [name for name in other if name in outer]
    if wrong := [name for name in other if name not in outer]:
        raise ValueError(
            f"weights={source!r}: {len(wrong)} tensors have other shapes, such as "
            f"{shown(wrong[0])}: {list(given[wrong[0]].shape)} in the file, "
            f"{list(own[wrong[0]].shape)} in the network; give the model that they are of"
        )
    missing = [name for name in own if name not in given and _counts(name)]
    left = [name for name in given if name not in own and _counts(name)]
    if gates := [name for name in left if GATES in f".{name}"]:
        raise ValueError(
            f"weights={source!r} holds gates, such as {shown(gates[0])}, which the network has "
            "not; give the block that they are of"
        )
    has_gates = any(GATES in f".{name}" for name in given)
    new += [n for n in missing if n in outer or (GATES in f".{n}" and not has_gates)]
    missing = [name for name in missing if name not in new]
    if missing or left:
        problems = [
            f"{len(names)} {what} (such as {shown(names[0])})"
            for what, names in (("are missing", missing), ("fit nothing", left))
            if names
        ]
        raise ValueError(
            f"weights={source!r} do not fit the network: of the tensors {', '.join(problems)}; "
            "give the model and the block that they are of"
        )
    fitting = {name: value for name, value in given.items() if name in own and name not in new}
    return fitting, Loaded(len(fitting), new, unused, adapted)


def _counts(name: str) -> bool:
    """Whether it matters that a tensor is missing. Counters do not, and old files lack them."""
    return not name.endswith(("num_batches_tracked", "n_averaged", "total_ops", "total_params"))


def _without_prefixes(given: Tensors, own: set[str]) -> Tensors:
    """The tensors without the prefix whose removal makes the most names fit."""
    best, tried, fits = given, [given], len(own & set(given))
    while tried:
        state = tried.pop()
        for prefix in PREFIXES:
            if not any(name.startswith(prefix) for name in state):
                continue
            inner = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            tried.append(inner)
            if (count := len(own & set(inner))) > fits:
                best, fits = inner, count
    return best


def _with_head(given: Tensors, own: Mapping[str, torch.Tensor], outer: set[str]) -> Tensors:
    """The tensors, with those of the head renamed as the network calls it (`linear` to `fc`)."""
    missing = [name for name in outer if name not in given]
    left = [name for name in given if name not in own and _counts(name)]
    renamed = {}
    for name in missing:
        end = name.rpartition(".")[2]
        alike = [n for n in left if n.endswith(f".{end}") and given[n].ndim == own[name].ndim]
        if len(missing) != len(left) or len(alike) != 1:
            return given
        renamed[alike[0]] = name
    return {renamed.get(name, name): tensor for name, tensor in given.items()}
