"""What boosting a network would do, found from one pass and changing nothing."""

# N batch, C channels, H W space

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accuracy_booster import blocks
from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.surgery.attach import disabled
from accuracy_booster.surgery.examples import infer_examples, traced
from accuracy_booster.surgery.gated import ATTRIBUTE, is_gated
from accuracy_booster.surgery.other_sites import attention_sites
from accuracy_booster.surgery.passes import Example, as_inputs
from accuracy_booster.surgery.refusing import copy_of_lazy, is_lazy, refuse_wrapped
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.where import Where, find_sites, where_text
from accuracy_booster.tables import Table

INITS = ("paper", "identity")


@dataclass(frozen=True)
class PlannedGate:
    """A gate to be: where, why there, and how many parameters it adds."""

    site: Site
    reason: str
    parameters: int


@dataclass(frozen=True)
class Plan:
    """What `ab.boost` would do; `print(plan)` shows it as a table."""

    model: str
    recipe: Recipe
    where: str
    init: str
    gates: list[PlannedGate]
    skipped: list[str] = field(default_factory=list)  # branches without a place for a gate

    @property
    def parameters(self) -> int:
        """What all gates add."""
        return sum(gate.parameters for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {**vars(g.site), "reason": g.reason, "parameters": g.parameters} for g in self.gates
        ]
        return {
            **{"model": self.model, "recipe": str(self.recipe), "where": self.where},
            **{"init": self.init, "parameters": self.parameters, "gates": rows},
            "skipped": self.skipped,
        }

    def table(self) -> Table:
        header = ["module", "channels", "size", "parameters", "why"]
        rows = []
        for gate in self.gates:
            site = gate.site
            size = "x".join(map(str, site.spatial_size)) or "-"
            layout = "" if site.layout == "NCHW" else f" {site.layout}"
            cells = (site.name, f"{site.channels:,}", size + layout, f"{gate.parameters:,}")
            rows.append([*cells, gate.reason])
        return Table(header, rows)

    def summary(self) -> str:
        count = f"{len(self.gates)} gate{'s' if len(self.gates) != 1 else ''}"
        return f"{self.model}: {count} of {self.recipe}, {self.parameters:,} parameters"

    def __str__(self) -> str:
        return "\n".join(
            [*self.table().lines(), self.summary(), *(f"skipped: {line}" for line in self.skipped)]
        )


def plan(
    model: nn.Module,
    recipe: str | Recipe = "ab",
    *,
    example: Example | None = None,
    where: Where = "residual",
    init: str = "paper",
) -> Plan:
    """What `ab.boost` with these arguments would do. Nothing of the model changes.

    Args:
        model: any network.
        recipe: what the gates compute: a name, a text, or an `ab.recipe(...)`.
        example: an image [1, C, H, W], or any other tensor; a tuple of several inputs by position;
            a dict of inputs by name. By default zeros of the size in the model's own configuration
            (timm, Hugging Face, ours), else of a size that fits its first layer.
        where: "residual" (the ends of residual branches), "conv" (after each convolution's norm),
            "attention" (in place of the SE, ECA, CBAM modules that are there), the names of
            modules, a compiled regular expression, or a predicate `(name, module) -> bool`.
        init: "paper", or "identity": the boosted network computes what it did, and the gates learn.

    Raises:
        ValueError: where nothing fits, a name is unknown, the recipe does not fit, or the network
            is wrapped (DDP, compiled, quantised) or boosted there already.
    """
    return make_plan(model, recipe, example=example, where=where, init=init, stacklevel=3)


def make_plan(
    model: nn.Module,
    recipe: str | Recipe,
    *,
    example: Example | None,
    where: Where,
    init: str,
    stacklevel: int,
) -> Plan:
    """`plan`, whose warning points `stacklevel` calls up."""
    parsed = blocks.recipe(recipe)
    if init not in INITS:
        raise ValueError(f"init={init!r} must be 'paper' or 'identity'")
    if init == "identity":
        if where == "attention":
            raise ValueError(
                "init='identity' keeps what the network computes; where='attention' takes modules "
                "of it away, so use init='paper' there"
            )
        parsed = parsed.as_identity()
    refuse_wrapped(model)
    if example is not None:
        as_inputs(example)
    if is_lazy(model):  # the pass gives their weights a shape, and a query changes nothing
        model = copy_of_lazy(model)
    with disabled(model):
        trace = traced(model, infer_examples(model) if example is None else [example])
    found = find_sites(model, trace, where)
    skipped = [f.reason for f in found if f.site is None]
    modules = dict(model.named_modules())
    gates = []
    for entry in found:
        site = entry.site
        if site is None:
            continue
        before, gated, _ = f".{site.name}.".partition(f".{ATTRIBUTE}.")
        if gated or is_gated(modules[site.name]) or hasattr(modules[site.name], ATTRIBUTE):
            place = before.strip(".")
            raise ValueError(f"{place!r} has a gate already; ab.unboost(model) takes it off")
        try:
            with torch.device("meta"):
                gate = Recalibrate(
                    site.channels, parsed, spatial_size=site.spatial_size, layout=site.layout
                )
        except ValueError as e:
            raise ValueError(f"at {site.name!r}: {e}") from None
        gates.append(PlannedGate(site, entry.reason, sum(p.numel() for p in gate.parameters())))
    if not gates:
        name = type(model).__name__
        if skipped and all(f.on_tokens for f in found):
            raise ValueError(
                f"{name} has no residual branch of feature maps to boost: {skipped[0]}; see where= "
                "for other places, such as where='conv' or the names of modules"
            )
        if skipped:
            raise ValueError(
                f"{name} has residual branches, but {skipped[0]}; name modules instead"
            )
        raise ValueError(
            f"{name} has no {where_text(where)} to boost; see where= for other places, such as "
            "where='conv' or the names of modules"
        )
    if init == "identity":
        still = [g.site.name for g in gates if _starts_at_zero(modules[g.site.name])]
        if still:
            warnings.warn(
                f"{len(still)} of {len(gates)} branches end in a norm whose weight is zero (such "
                f"as {still[0]!r}): their gates get no gradient until that weight is trained; use "
                "pretrained weights, or timm's zero_init_last=False",
                stacklevel=stacklevel,
            )
    if (
        isinstance(where, str)
        and where in ("residual", "conv")
        and (present := attention_sites(trace))
    ):
        example_name = present[0].site.name if present[0].site else ""
        warnings.warn(
            f"the network has {len(present)} attention modules already (such as {example_name!r}); "
            "where='attention' puts the gates in their place",
            stacklevel=stacklevel,
        )
    return Plan(type(model).__name__, parsed, where_text(where), init, gates, skipped)


def _starts_at_zero(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and not weight.is_meta and not weight.any()
