"""`ab.plan`: what boosting a network would do, found from one pass and changing nothing."""

# N batch, C channels, H W space

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from accuracy_booster import blocks
from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.spelling import renamed
from accuracy_booster.surgery.attaching import disabled
from accuracy_booster.surgery.examples import infer_examples
from accuracy_booster.surgery.finding import Found
from accuracy_booster.surgery.gated import ATTRIBUTE, is_gated
from accuracy_booster.surgery.inputs import Example, as_inputs
from accuracy_booster.surgery.other_sites import attention_sites
from accuracy_booster.surgery.plans import Plan, PlannedGate
from accuracy_booster.surgery.quiet_passes import traced
from accuracy_booster.surgery.refusing import copy_of_lazy, is_lazy, refuse_wrapped
from accuracy_booster.surgery.skipping import Skip, leave_out
from accuracy_booster.surgery.trace import Trace
from accuracy_booster.surgery.where import Where, find_sites, where_text

INITS = ("paper", "identity")


@renamed("recipe", "block", position=1)
def plan(
    model: nn.Module,
    block: str | Recipe = "ab",
    *,
    example: Example | None = None,
    where: Where = "residual",
    skip: Skip = None,
    init: str = "paper",
) -> Plan:
    """What `ab.boost` with these arguments would do. Nothing of the model changes.

    Args:
        model: any network.
        block: what the gates compute: a name, a text, or an `ab.recipe(...)`.
        example: an image [1, C, H, W], or any other tensor; a tuple of several inputs by position;
            a dict of inputs by name. By default zeros of the size in the model's own configuration
            (timm, Hugging Face, ours), else of a size that fits its first layer.
        where: "residual" (the ends of residual branches), "conv" (after each convolution's norm),
            "attention" (in place of the SE, ECA, CBAM modules that are there), the names of
            modules, a compiled regular expression, or a predicate `(name, module) -> bool`. A text
            may also hold several names, and regular expressions between slashes:
            "stem.bn,/layer[34].*bn2/".
        skip: the names or shell patterns of modules whose sites get no gate. A name also covers
            what lies in the module: "layer1", ["layer1.0", "*.downsample.*"].
        init: "paper", or "identity": the boosted network computes what it did, and the gates learn.

    Raises:
        ValueError: where nothing fits, a name is unknown, the block does not fit, or the network
            is wrapped (DDP, compiled, quantised) or boosted there already.
    """
    return make_plan(model, block, example=example, where=where, skip=skip, init=init, stacklevel=4)


def make_plan(
    model: nn.Module,
    block: str | Recipe,
    *,
    example: Example | None,
    where: Where,
    skip: Skip,
    init: str,
    stacklevel: int,
) -> Plan:
    """`plan`, whose warnings point `stacklevel` calls up, counted from here."""
    recipe = starting_recipe(block, where, init)
    refuse_wrapped(model)
    if example is not None:
        as_inputs(example)
    if is_lazy(model):  # the pass would give their weights a shape
        model = copy_of_lazy(model)
    with disabled(model):
        trace = traced(model, infer_examples(model) if example is None else [example])
    found = leave_out(model, find_sites(model, trace, where), skip)
    modules = dict(model.named_modules())
    gates = [
        PlannedGate(entry.site, entry.reason, _parameters(entry, recipe, modules))
        for entry in found
        if entry.site is not None
    ]
    if not gates:
        raise _nothing_to_boost(model, found, where)
    if init == "identity":
        _warn_of_zero_norms(gates, modules, stacklevel + 1)
    if isinstance(where, str) and where in ("residual", "conv"):
        _warn_of_attention(trace, stacklevel + 1)
    skipped = [entry.reason for entry in found if entry.site is None]
    return Plan(type(model).__name__, recipe, where_text(where), init, gates, skipped)


def starting_recipe(block: str | Recipe, where: Where, init: str) -> Recipe:
    """The recipe of a block, as the identity if that is asked for."""
    recipe = blocks.recipe(block)
    if init not in INITS:
        raise ValueError(f"init={init!r} must be 'paper' or 'identity'")
    if init == "paper":
        return recipe
    if where == "attention":
        raise ValueError(
            "init='identity' keeps what the network computes; where='attention' takes modules "
            "of it away, so use init='paper' there"
        )
    return recipe.as_identity()


def _parameters(entry: Found, recipe: Recipe, modules: Mapping[str, nn.Module]) -> int:
    """The number of parameters of a gate at a site.

    Raises:
        ValueError: if there is a gate already, or the block does not fit the site.
    """
    site = entry.site
    assert site is not None
    before, gated, _ = f".{site.name}.".partition(f".{ATTRIBUTE}.")
    if gated or is_gated(modules[site.name]) or hasattr(modules[site.name], ATTRIBUTE):
        place = before.strip(".")
        raise ValueError(f"{place!r} has a gate already; ab.unboost(model) takes it off")
    try:
        with torch.device("meta"):  # which takes no memory and draws no random numbers
            gate = Recalibrate(
                site.channels, recipe, spatial_size=site.spatial_size, layout=site.layout
            )
    except ValueError as e:
        raise ValueError(f"at {site.name!r}: {e}") from None
    return sum(p.numel() for p in gate.parameters())


def _nothing_to_boost(model: nn.Module, found: list[Found], where: Where) -> ValueError:
    """The error that says why a network has no site."""
    name = type(model).__name__
    skipped = [entry.reason for entry in found]
    elsewhere = (
        "where='conv' (on the command line --where conv) puts a gate after each convolution, and "
        "where= also takes the names of modules"
    )
    if skipped and all(entry.on_tokens for entry in found):
        return ValueError(
            f"{name} has no residual branch of feature maps to boost: {skipped[0]}; {elsewhere}"
        )
    if skipped:
        return ValueError(f"{name} has residual branches, but {skipped[0]}; name modules instead")
    if where == "conv":
        elsewhere = "where= (--where) also takes the names of modules"
    return ValueError(f"{name} has no {where_text(where)} to boost; {elsewhere}")


def _warn_of_zero_norms(
    gates: list[PlannedGate], modules: Mapping[str, nn.Module], stacklevel: int
) -> None:
    still = [g.site.name for g in gates if _starts_at_zero(modules[g.site.name])]
    if still:
        warnings.warn(
            f"{len(still)} of {len(gates)} branches end in a norm whose weight is zero (such "
            f"as {still[0]!r}): their gates get no gradient until that weight is trained; use "
            "pretrained weights, or timm's zero_init_last=False",
            stacklevel=stacklevel,
        )


def _starts_at_zero(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and not weight.is_meta and not weight.any()


def _warn_of_attention(trace: Trace, stacklevel: int) -> None:
    if present := attention_sites(trace):
        example_name = present[0].site.name if present[0].site else ""
        warnings.warn(
            f"the network has {len(present)} attention modules already (such as {example_name!r}); "
            "where='attention' puts the gates in their place",
            stacklevel=stacklevel,
        )
