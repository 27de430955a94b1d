"""Read, or change, what gates weigh the channels with, while a network runs."""

# N images, C channels, H W space

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.blocks.recalibrate import Gate
from accuracy_booster.ops import backend
from accuracy_booster.surgery.attaching import attached
from accuracy_booster.surgery.gated import ATTRIBUTE
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import state_of
from accuracy_booster.surgery.wrappers import unwrapped

# (site, weights p) -> the weights to use: p is [N, C], or [N, 1, H, W], or [N, C, h, w]
Change = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Place:
    """One gate of a network.

    Attributes:
        site: the name of the module whose output it scales; a second gate there has "#2".
    """

    site: str
    gate: Gate
    block: Recalibrate


def places(model: nn.Module) -> list[Place]:
    """Every gate of a network, those that a user put in as modules of their own too.

    Raises:
        ValueError: if there is none.
    """
    model = unwrapped(model)
    report = state_of(model).fast_path
    if report is not None and report.kind == "folded":
        raise ValueError(
            f"{type(model).__name__} is folded for inference, and its gates with it; give the "
            "network that was folded"
        )
    repair(model)
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
        Place(site if number == 0 else f"{site}#{number + 1}", gate, block)
        for site, block in blocks.items()
        for number, gate in enumerate(block)
        if isinstance(gate, Gate)
    ]


@contextmanager
def changed(model: nn.Module, change: Change) -> Iterator[None]:
    """Within it, each gate uses what `change` makes of its weights.

    The network runs module by module there, and nothing of it compiled: each change would be
    compiled anew. What comes out of a gate's `weigh` is what `change`
    is given, so it can also be used to read weights only.
    """
    with ExitStack() as stack:
        stack.enter_context(backend.using("unfused"))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for place in places(model):
            stack.callback(place.gate.__dict__.pop, "weigh", None)
            place.gate.__dict__["weigh"] = _changed(place, change)
        yield


def _changed(place: Place, change: Change) -> Callable[[list[torch.Tensor]], torch.Tensor]:
    def weigh(descriptors: list[torch.Tensor]) -> torch.Tensor:
        return change(place.site, Gate.weigh(place.gate, descriptors))

    return weigh


def by_channel(weights: torch.Tensor) -> torch.Tensor:
    """p[N, C, ...] -> [N, C]: the mean over positions; 16-bit numbers, which round it, to 32."""
    p = weights if weights.dtype is torch.float64 else weights.float()
    return p if p.ndim == 2 else p.flatten(2).mean(2)
