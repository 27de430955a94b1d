"""`ab.prune`: a smaller network without the channels that count least.

A criterion of `criteria.CRITERIA` gives each channel a score. How many channels stay does not
depend on the criterion, so networks pruned by different criteria have equal parameters and MACs.
"""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.errors import shown, unknown
from accuracy_booster.fastpath.report import report_of
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
from accuracy_booster.pruning.report import CutReport, Pruning
from accuracy_booster.surgery.attaching import detach
from accuracy_booster.surgery.inputs import Example
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.refusing import is_lazy, refuse_wrapped
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import update_state

Network = TypeVar("Network", bound=nn.Module)
OF = ("outputs", "inner")


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

    With of="outputs" the last layer of each residual branch, its norm and its gate keep only the
    best channels. `Expand` puts zeros in the sum where the others were. So the network computes
    what the model would if their outputs were 0. With of="inner" the maps between two layers of
    a branch get fewer channels, and the gates stay as they are. What cannot be pruned stays whole;
    `ab.pruning_of(result)` lists everything, with the reasons.

    Args:
        model: a network on any device, in any mode, boosted or (by magnitude, at random) not.
        keep: the share of the channels that stay in each map, 0 < keep <= 1, rounded to a whole
            number, at least 1. In each group of a grouped convolution the same number stays.
        by: the criterion: "gates", the mean weight that the gate gives the channel; "magnitude",
            the L2 norm of its filter in eval mode, batch norm included; "gates*magnitude", the
            product of both; or "random". Inside a branch the filter is what the next layer does
            with the channel, and "gates" weighs each output of that layer by its own gate. Where
            that layer has no gate, "gates" scores by magnitude. The formulas are in
            `pruning.criteria`.
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
    reports, chosen = [], []
    for cut in found:
        if isinstance(cut, Whole):
            reports.append(
                CutReport(cut.name, cut.channels, tuple(range(cut.channels)), cut.reason)
            )
            continue
        signals = Signals(cuts, cut, means, random)
        scores = criterion.score(signals)
        if not scores.isfinite().all():
            raise ValueError(
                f"the scores of {cut.name!r} by {by!r} are not finite: has it diverged?"
            )
        kept = choose(scores, keep, cut.groups)
        whole = len(kept) == cut.channels
        how = "all are kept at this share" if whole else f"by {criterion.what}"
        if criterion.needs_gates and not signals.has_means:
            how = "by the norm of weights: what reads it has no gate"
        reports.append(CutReport(cut.name, cut.channels, tuple(kept.tolist()), how))
        chosen.append((cut, kept))
    report = Pruning(of, by, keep, reports)
    if not any(one.smaller for one in reports) and (keep < 1 or not chosen):
        raise ValueError(_nothing(model, of, keep, reports))
    for cut, kept in chosen:
        if len(kept) < cut.channels:
            _apply(new, cut, kept)
    update_state(new, pruning=report)
    return new


def choose(scores: torch.Tensor, keep: float, groups: int = 1) -> torch.Tensor:
    """scores[C] -> the indices of the highest scores, in ascending order.

    Args:
        scores: of equal scores the first one wins.
        keep: the share that is kept.
        groups: the channels are this many equal runs, and the same number of each is kept.
    """
    rows = scores.view(groups, -1)
    width = rows.shape[1]
    count = max(1, math.floor(keep * width + 0.5))
    best = rows.argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values
    return (best + torch.arange(groups)[:, None] * width).flatten()


def _check(model: nn.Module, keep: float, by: str, of: str, gates: Any) -> Criterion:
    if by not in CRITERIA:
        raise unknown("criterion", by, CRITERIA)
    if of not in OF:
        raise ValueError(f"of={shown(of)} must be 'outputs' or 'inner'")
    number = isinstance(keep, (int, float)) and not isinstance(keep, bool)
    if not number or not 0 < keep <= 1:
        raise ValueError(f"keep={shown(keep)} must be a share of the channels, 0 < keep <= 1")
    refuse_wrapped(model)
    if (done := report_of(model)) is not None:
        raise ValueError(f"{type(model).__name__} is {done.kind}; prune ab.unfuse(model)")
    if is_lazy(model):
        raise ValueError("the model has lazy layers without a shape; run it once before pruning")
    if CRITERIA[by].needs_gates and gates is None:
        raise ValueError(
            f"by={by!r} needs the mean weights of the gates: gates=ab.gates(model, loader)"
        )
    return CRITERIA[by]


def _nothing(model: nn.Module, of: str, keep: float, reports: list[CutReport]) -> str:
    """The message for a network of which nothing can be pruned."""
    name = type(model).__name__
    if not reports:
        return f"{name} has no gates and no residual branches to prune"
    reasons: dict[str, str] = {}
    for report in reports:
        reasons.setdefault(report.how, report.name)
    few = [f"{name} ({how})" for how, name in list(reasons.items())[:4]]
    more = f", and {len(reasons) - 4} more reasons" if len(reasons) > 4 else ""
    return f"nothing of {name} can be pruned with of={of!r}, keep={keep}: {', '.join(few)}{more}"


def _apply(new: nn.Module, cut: Cut, kept: torch.Tensor) -> None:
    """Remove the other channels of a cut from its modules, in place."""
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
