"""Find the gates of a network, and read or change the weights that they give while it runs."""

# N images, C channels, H W space

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.ops import backend
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import state_of
from accuracy_booster.surgery.wrappers import unwrapped

# (site, weights p) -> the weights to use: p is [N, C], or [N, 1, H, W], or [N, C, h, w]
Change = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LocatedGate:
    """One gate of a network.

    Attributes:
        site: the name of the module whose output it scales. A second gate of the same block, such
            as CBAM's, has "#2" after it.
        gate: what computes the weights.
        block: the attached module that the gate is a part of.
    """

    site: str
    gate: Gate
    block: Recalibrate


def gates_in(model: nn.Module) -> list[LocatedGate]:
    """Every gate of a network, also those of `ab.Recalibrate` modules that a user put into it.

    Raises:
        ValueError: if there is none.
    """
    model = unwrapped(model)
    _check_not_folded(model)
    blocks = dict(attached(model))
    known = set(map(id, blocks.values()))
    for name, module in model.named_modules():
        if isinstance(module, Recalibrate) and id(module) not in known:
            # `ab.materialize` puts a gate beside its module, in a Sequential
            blocks[name.removesuffix(f".{ATTRIBUTE}") or name] = module
            known.add(id(module))
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no gates; give a network that was boosted (ab.boost) or "
            "trained with a block"
        )
    return [
        LocatedGate(site if number == 0 else f"{site}#{number + 1}", gate, block)
        for site, block in blocks.items()
        for number, gate in enumerate(block)
        if isinstance(gate, Gate)
    ]


def repair_and_find(model: nn.Module) -> list[LocatedGate]:
    """Put back the gates that other tools dropped, as the next pass would, and return all gates.

    Raises:
        ValueError: if there is none.
        RuntimeError: if the module of a gate was removed.
    """
    _check_not_folded(unwrapped(model))
    repair(unwrapped(model))
    return gates_in(model)


def _check_not_folded(model: nn.Module) -> None:
    report = state_of(model).fast_path
    if report is not None and report.kind == "folded":
        raise ValueError(
            f"{type(model).__name__} is folded for inference, and its gates with it; give the "
            "network that was folded"
        )


@contextmanager
def weights_changed(model: nn.Module, change: Change) -> Iterator[None]:
    """Within it, each gate uses what `change` returns for its weights.

    A `change` that returns what it is given only reads the weights. The network runs eagerly,
    module by module: a compiled network would be compiled anew for each change.
    """
    with ExitStack() as stack:
        stack.enter_context(backend.using("unfused"))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for one in gates_in(model):
            stack.callback(setattr, one.gate, "change", one.gate.change)
            one.gate.change = partial(change, one.site)
        yield


def by_channel(weights: torch.Tensor) -> torch.Tensor:
    """p[N, C, ...] -> [N, C]: the mean over positions, in float32 or float64.

    The mean of 16-bit numbers would be rounded to 16 bits.
    """
    p = weights if weights.dtype is torch.float64 else weights.float()
    return p if p.ndim == 2 else p.flatten(2).mean(2)
