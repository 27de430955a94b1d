"""Remove the channels that count least, by one of several criteria: a physically smaller network.

A channel's score comes from a row of `criteria.CRITERIA`. How many channels stay does not depend on
it, so networks pruned by different criteria have equal parameters and MACs.
"""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.errors import shown, unknown
from accuracy_booster.pruning.criteria import (
    CRITERIA,
    Criterion,
    Signals,
    check_means,
    mean_weights,
)
from accuracy_booster.pruning.cuts import Cut, Cuts, Whole
from accuracy_booster.pruning.pruned_modules import (
    Expand,
    attach_smaller,
    keep_channels,
    keep_inputs,
    keep_outputs,
)
from accuracy_booster.surgery.attaching import attached, detach
from accuracy_booster.surgery.inputs import Example
from accuracy_booster.surgery.refusing import is_lazy, refuse_wrapped
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import state_of, update_state
from accuracy_booster.tables import Table

Network = TypeVar("Network", bound=nn.Module)
OF = ("outputs", "inner")


@dataclass(frozen=True)
class PrunedPlace:
    """The channels of one place: how many there were, which are kept, and how or why not fewer."""

    name: str
    channels: int
    kept: tuple[int, ...]
    how: str

    @property
    def smaller(self) -> bool:
        return len(self.kept) < self.channels


@dataclass(frozen=True)
class Pruning:
    """What `ab.prune` did; `print(ab.pruning_of(model))` shows it as a table."""

    of: str
    by: str
    keep: float
    places: list[PrunedPlace]

    def table(self) -> Table:
        rows = [[p.name, f"{p.channels:,}", f"{len(p.kept):,}", p.how] for p in self.places]
        return Table(["module", "channels", "kept", "how, or why not"], rows)

    def summary(self) -> str:
        smaller = [p for p in self.places if p.smaller]
        gone = sum(p.channels - len(p.kept) for p in smaller)
        return (
            f"pruned by {self.by}: {len(smaller)} of {len(self.places)} places are smaller, "
            f"{gone:,} channels are gone"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([*self.table().lines(), self.summary()])


@torch.no_grad()
def prune(
    model: Network,
    keep: float = 0.75,
    *,
    by: str = "gates",
    of: str = "outputs",
    gates: Any = None,
    example: Example | None = None,
    seed: int = 0,
) -> Network:
    """A new network without the channels that count least; the model does not change.

    With of="outputs" the last layer of each residual branch, its norm and its gate keep the best
    channels alone, and `Expand` puts zeros in the sum where the others were: the network computes
    what the model would if the others' weights were 0. With of="inner" the maps between two layers
    of a branch become narrower: plain layers, and the gates stay as they are. What cannot be pruned
    stays whole; `ab.pruning_of(result)` lists all places, with the reason.

    Args:
        model: a network on any device, in any mode, boosted or (by magnitude, at random) not.
        keep: the share of the channels that stay in each place, 0 < keep <= 1, to the nearest whole
            number, at least 1; in each group of a grouped convolution the same number. It is the
            same number whatever the criterion.
        by: "gates", each channel's mean weight (inside a branch the norm of its outgoing weights,
            each times the mean weight of the output that it goes to); "magnitude", the norm of its
            filter as it acts in eval mode, the norm's gamma / sqrt(var + eps) included (inside a
            branch of its outgoing weights, times the |gamma| of the norm before them);
            "gates*magnitude", the product of both; or "random". A map inside a branch whose reader
            has no gate is scored by magnitude where gates are asked for.
        of: "outputs", the ends of residual branches, or "inner", the maps inside them.
        gates: for criteria that use gates: `ab.gates(model, loader)`, or {site: mean weights [C]}.
        example: an image [1, C, H, W], or several inputs, as for `ab.plan`.
        seed: of by="random".

    Returns:
        A network of the same class, to be called as before, fine-tuned, exported or folded.

    Raises:
        ValueError: for a model that is wrapped, fused or folded, a criterion that needs gates or
            mean weights that are not given, or where nothing can be pruned (with the reasons).
    """
    criterion = _check(model, keep, by, of, gates)
    means = mean_weights(gates, criterion)
    new = repair(copy.deepcopy(model))
    cuts = Cuts(new, example)
    found = list(cuts.outputs() if of == "outputs" else cuts.inner())
    random = torch.Generator().manual_seed(seed)
    check_means(cuts, found, means, criterion, by)
    places, chosen = [], []
    for cut in found:
        if isinstance(cut, Whole):
            places.append(
                PrunedPlace(cut.name, cut.channels, tuple(range(cut.channels)), cut.reason)
            )
            continue
        signals = Signals(cuts, cut, means, random)
        scores = criterion.score(signals)
        if not scores.isfinite().all():
            raise ValueError(
                f"the scores of {cut.name!r} by {by!r} are not finite: has it diverged?"
            )
        kept = choose(scores, keep, cut.blocks)
        whole = len(kept) == cut.channels
        how = "all are kept at this share" if whole else f"by {criterion.what}"
        if criterion.needs_gates and not signals.has_means:
            how = "by the norm of weights: what reads it has no gate"
        places.append(PrunedPlace(cut.name, cut.channels, tuple(kept.tolist()), how))
        chosen.append((cut, kept))
    report = Pruning(of, by, keep, places)
    if not any(place.smaller for place in places) and (keep < 1 or not chosen):
        raise ValueError(_nothing(model, of, keep, places))
    for cut, kept in chosen:
        if len(kept) < cut.channels:
            _apply(new, cut, kept)
    update_state(new, pruning=report)
    return new


def choose(scores: torch.Tensor, keep: float, blocks: int = 1) -> torch.Tensor:
    """scores[C] -> the places of the highest, in order; as many from each of equal blocks.

    Of equal scores the first stays.
    """
    rows = scores.view(blocks, -1)
    width = rows.shape[1]
    count = max(1, math.floor(keep * width + 0.5))
    best = rows.argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values
    return (best + torch.arange(blocks)[:, None] * width).flatten()


def pruning_of(model: nn.Module) -> Pruning:
    """What `ab.prune` did to make a network.

    Raises:
        ValueError: for a network that was not pruned.
    """
    report = state_of(model).pruning if isinstance(model, nn.Module) else None
    if report is None:
        raise ValueError(f"{type(model).__name__} was not made by ab.prune")
    return report


def pruned_channels(model: nn.Module) -> dict[str, list[int]]:
    """{place: the channels that were kept there}, of the places that `ab.prune` made smaller.

    A place is a gate's site, or the layer that gives an inner map, under its name in the network
    before.
    """
    return {p.name: list(p.kept) for p in pruning_of(model).places if p.smaller}


def _check(model: nn.Module, keep: float, by: str, of: str, gates: Any) -> Criterion:
    if by not in CRITERIA:
        raise unknown("criterion", by, CRITERIA)
    if of not in OF:
        raise ValueError(f"of={shown(of)} must be 'outputs' or 'inner'")
    number = isinstance(keep, (int, float)) and not isinstance(keep, bool)
    if not number or not 0 < keep <= 1:
        raise ValueError(f"keep={shown(keep)} must be a share of the channels, 0 < keep <= 1")
    refuse_wrapped(model)
    if (done := state_of(model).fast_path) is not None:
        raise ValueError(f"{type(model).__name__} is {done.kind}; prune ab.unfuse(model)")
    if is_lazy(model):
        raise ValueError("the model has lazy layers without a shape; run it once before pruning")
    if CRITERIA[by].needs_gates and gates is None:
        raise ValueError(
            f"by={by!r} needs the mean weights of the gates: gates=ab.gates(model, loader)"
        )
    return CRITERIA[by]


def _nothing(model: nn.Module, of: str, keep: float, places: list[PrunedPlace]) -> str:
    """Why nothing was pruned, in one line."""
    name = type(model).__name__
    if not places:
        return f"{name} has no gates and no residual branches to prune"
    reasons: dict[str, str] = {}
    for place in places:
        reasons.setdefault(place.how, place.name)
    few = [f"{name} ({how})" for how, name in list(reasons.items())[:4]]
    more = f", and {len(reasons) - 4} more reasons" if len(reasons) > 4 else ""
    return f"nothing of {name} can be pruned with of={of!r}, keep={keep}: {', '.join(few)}{more}"


def _apply(new: nn.Module, cut: Cut, kept: torch.Tensor) -> None:
    """Make the modules of a cut smaller, in place."""
    modules, gates = dict(new.named_modules()), attached(new)
    detach(new, cut.gates)
    keep_outputs(modules[cut.producer], kept)
    for name in cut.followers:
        keep_channels(modules[name], kept)
    inside = ""
    if cut.consumer is not None:
        keep_inputs(modules[cut.consumer], kept)
    else:
        inside = ".layer"
        layer = modules[cut.name]
        every = [n for n, m in new.named_modules(remove_duplicate=False) if m is layer]
        expand = Expand(kept, cut.channels, cut.space).to(_device(modules[cut.producer]))
        both = nn.Sequential(OrderedDict(layer=layer, expand=expand))
        both.training = expand.training = layer.training
        for name in every:
            parent, _, child = name.rpartition(".")
            setattr(new.get_submodule(parent), child, both)
    for site in cut.gates:
        attach_smaller(new, f"{site}{inside}", gates[site], kept)


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device
