"""Gates of a folded network that come after something else than a convolution or its norm.

Where an activation or anything else that is no convolution gives the map, its mean is known only
from the map itself. Such a gate is one reduction over the map, affine maps of the mean, and one
pass for the product, which the sum and the ReLU join where they follow. The gated module keeps its
class, its name and its forward: only the gate inside changes. After SE and its like the gate needs
no reduction of its own (`gated_factors`).
"""

# N batch, C channels, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from accuracy_booster.blocks import Gate, Recalibrate
from accuracy_booster.fastpath.epilogue import Epilogue
from accuracy_booster.fastpath.fold_algebra import fold_gate_of_output
from accuracy_booster.fastpath.folded_modules import FoldedGate
from accuracy_booster.fastpath.gated_convolution import mean_over_space
from accuracy_booster.fastpath.gated_factors import GatedFactor, is_factor
from accuracy_booster.fastpath.neighbours import Neighbours, SiteContext
from accuracy_booster.fastpath.reasons import why_gate_stays
from accuracy_booster.fastpath.report import SiteReport
from accuracy_booster.ops import accumulation_dtype, leaf_module, rescale, without_autocast
from accuracy_booster.surgery.attaching import detach_unnoted
from accuracy_booster.surgery.gated import applied_gate, ungated_class
from accuracy_booster.surgery.hooks import is_hooked
from accuracy_booster.surgery.listing import attached

# in reports
HOW = "the gate from the mean of the module's output"
WITH_FACTOR = "the gate from the mean of the {}'s input, both in one factor"


class MeanGate(Gate):
    """x[N, C, H, W] -> p * x, where p[N, C] are the weights of a folded gate.

    Args:
        gate: the gate before folding.
        folded: what gives p from the mean of x over space.
        epilogue: what follows.
    """

    def __init__(self, gate: Gate, folded: FoldedGate, epilogue: Epilogue):
        nn.Module.__init__(self)
        self.recipe, self.channels = gate.recipe, gate.channels
        self.spatial_dims, self.change = gate.spatial_dims, gate.change
        self.gate, self.epilogue = folded, epilogue

    def describe(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x[N, C, H, W] -> its mean over space, [N, C], in float32 for 16-bit maps."""
        return [mean_over_space(x)]

    def weigh(self, descriptors: list[torch.Tensor]) -> torch.Tensor:
        """The mean [N, C] -> p[N, C]."""
        (d,) = descriptors
        with without_autocast(d):
            p = self.gate(d)
        return p if self.change is None else self.change(p)

    @leaf_module(may_defer=False)  # users of a torch.fx graph may read any node
    def forward(self, x: torch.Tensor, may_defer: bool = True) -> Any:
        """A tensor; with `may_defer` it may be a deferred map."""
        self.check(x)
        p = self.weigh(self.describe(x))
        if may_defer:
            scale = p.to(accumulation_dtype(x.dtype))
            deferred = self.epilogue.defer(self, x, None, scale, None)
            if deferred is not None:
                return deferred
        return rescale(x, p)


def fold_gates_left(
    model: nn.Module, neighbours: Neighbours, reports: Iterable[SiteReport]
) -> list[SiteReport]:
    """Fold the gates that a network still has, in place, and report on them.

    Args:
        model: a network whose other gates are folded already.
        neighbours: of the network before folding.
        reports: on all its gates.

    Returns:
        The reports, with new ones for the gates that are folded now.
    """
    gates = attached(model)
    modules = dict(model.named_modules())
    users = Counter(id(applied_gate(module)) for module in modules.values())
    told = {report.name: report for report in reports}
    for name, block in gates.items():
        reason = why_gate_stays(block)
        before = told.get(name, SiteReport(name, False, "several modules share it"))
        if reason is not None:
            told[name] = replace(before, how=reason)
            continue
        alone = users[id(block)] == 1
        context = neighbours.of(name) if alone and block.layout == "NCHW" else None
        epilogue = _epilogue(modules, block, name, context)
        if context is not None and _is_factor(modules[name], block, name, neighbours):
            _join(model, name, block, epilogue)
            cls = ungated_class(modules[name])
            told[name] = SiteReport(name, True, WITH_FACTOR.format(cls.__name__))
            continue
        _fold(block, epilogue)
        reduces = block.spatial_dims > 0
        told[name] = SiteReport(name, True, f"{HOW} ({before.how})", extra_reduction=reduces)
    return list(told.values())


def _fold(block: Recalibrate, epilogue: Epilogue) -> None:
    """Make the one gate of a block a `MeanGate`, in place."""
    gate = block[0]
    assert isinstance(gate, Gate)
    block[0] = MeanGate(gate, _folded(block), epilogue).train(block.training)


def _folded(block: Recalibrate) -> FoldedGate:
    like = next(block.parameters(), torch.empty(0))
    return fold_gate_of_output(block, accumulation_dtype(like.dtype))


def _is_factor(module: nn.Module, block: Recalibrate, name: str, neighbours: Neighbours) -> bool:
    """Whether a module and its gate can be one factor: nothing else reads the module's input."""
    given = neighbours.trace.input_of.get(name)
    inside = given is not None and all(
        f"{call.module}.".startswith(f"{name}.") for call in given.users
    )
    usual = block.enabled and not is_hooked(block) and neighbours.trace.calls_of.get(name) == 1
    return inside and usual and is_factor(module, block.channels)


def _join(model: nn.Module, name: str, block: Recalibrate, epilogue: Epilogue) -> None:
    """Make a module and its gate a `GatedFactor`, in place."""
    folded = _folded(block)
    module = model.get_submodule(name)
    detach_unnoted(model, [name])
    joined = GatedFactor(module, folded, replace(epilogue, aliases=epilogue.aliases[1:]))
    model.set_submodule(name, joined.train(module.training))


def _epilogue(
    modules: dict[str, nn.Module], block: Recalibrate, name: str, context: SiteContext | None
) -> Epilogue:
    """What follows the output of a gated module, which is that of its gate."""
    if context is None:
        return Epilogue()
    # folding has replaced norms, and the layers inside them are gone
    names = [alias for alias in (name, *context.aliases) if alias in modules]
    owner = None if context.sum_owner is None else modules.get(context.sum_owner)
    return Epilogue(context.followed_by, (block, *(modules[n] for n in names)), owner)
