"""What boosting a network would do, found from one pass and changing nothing."""

# N batch, C channels, H W space

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accuracy_booster import blocks
from accuracy_booster.blocks import Recalibrate, Recipe
from accuracy_booster.errors import unknown
from accuracy_booster.ops import backend
from accuracy_booster.surgery.attach import REPORT, disabled
from accuracy_booster.surgery.find import (
    Found,
    attention_sites,
    conv_sites,
    layout_of,
    residual_sites,
)
from accuracy_booster.surgery.gated import ATTRIBUTE, is_gated
from accuracy_booster.surgery.passes import Example, as_inputs, described, moved
from accuracy_booster.surgery.sites import Site
from accuracy_booster.surgery.trace import Trace, Value

Where = str | Iterable[str] | re.Pattern[str] | Callable[[str, nn.Module], bool]
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

    def table(self) -> tuple[list[str], list[list[str]]]:
        header = ["module", "channels", "size", "parameters", "why"]
        rows = []
        for gate in self.gates:
            site = gate.site
            size = "x".join(map(str, site.spatial_size))
            layout = "" if site.layout == "NCHW" else f" {site.layout}"
            cells = (site.name, f"{site.channels:,}", size + layout, f"{gate.parameters:,}")
            rows.append([*cells, gate.reason])
        return header, rows

    def summary(self) -> str:
        count = f"{len(self.gates)} gate{'s' if len(self.gates) != 1 else ''}"
        return f"{self.model}: {count} of {self.recipe}, {self.parameters:,} parameters"

    def __str__(self) -> str:
        lines = aligned(*self.table())
        return "\n".join([*lines, self.summary(), *(f"skipped: {line}" for line in self.skipped)])


def aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table, its columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


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
        model: any network that maps images [N, C, H, W] to something.
        recipe: what the gates compute: a name, a text, or an `ab.recipe(...)`.
        example: an image [1, C, H, W]; by default zeros of the size in the model's own
            configuration (timm, Hugging Face, ours), else 224 x 224.
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
    with disabled(model):
        trace = traced(model, infer_examples(model) if example is None else [example])
    found = _find(model, trace, where)
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
        if skipped:
            raise ValueError(
                f"{name} has residual branches, but {skipped[0]}; name modules instead"
            )
        raise ValueError(
            f"{name} has no {_where_text(where)} to boost; see where= for other places, such as "
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
    return Plan(type(model).__name__, parsed, _where_text(where), init, gates, skipped)


def _starts_at_zero(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and not weight.is_meta and not weight.any()


def traced(model: nn.Module, examples: list[Any]) -> Trace:
    """The trace of the first example that the network can take."""
    for last, example in enumerate(examples, start=1 - len(examples)):
        trace = Trace(model)
        try:
            with quiet_pass(model, example) as inputs:
                trace.run(model, inputs)
            return trace
        except ValueError:
            if last == 0:
                raise
    raise AssertionError("no example")


def _where_text(where: Where) -> str:
    if isinstance(where, str):
        texts = {"residual": "residual branch", "conv": "convolution", "attention": "attention"}
        return texts.get(where, where)
    if isinstance(where, re.Pattern):
        return f"module that matches {where.pattern!r}"
    return "module that the predicate accepts" if callable(where) else "module of those names"


def _find(model: nn.Module, trace: Trace, where: Where) -> list[Found]:
    kinds = {"residual": residual_sites, "conv": conv_sites, "attention": attention_sites}
    if isinstance(where, str) and where in kinds:
        return kinds[where](trace)
    modules = dict(model.named_modules())
    if isinstance(where, re.Pattern):
        names = [name for name in modules if where.search(name)]
        reason = f"matches {where.pattern!r}"
    elif callable(where):
        names = [name for name, module in modules.items() if where(name, module)]
        reason = "chosen by the predicate"
    else:
        if isinstance(where, str):
            where = [where]
        if not isinstance(where, Iterable):
            raise ValueError(
                f"where={where!r} must be 'residual', 'conv', 'attention', names of modules, a "
                "compiled regular expression or a predicate"
            )
        names, reason = list(where), "named"
        for name in names:
            if not isinstance(name, str) or not name:
                raise ValueError(f"where names a module by {name!r}, which is no name")
            if name not in modules:
                raise unknown("module", name, [*filter(None, modules), *kinds])
    outputs: dict[str, Value] = {}
    parts: set[str] = set()
    for value in trace.values:
        outputs |= dict.fromkeys((*value.modules, *value.through), value)
        parts.update(value.parts_of)
    found = []
    for name in dict.fromkeys(names):
        output = outputs.get(name)
        if name in parts:
            raise ValueError(
                f"module {name!r} returns several things; name the module inside it that gives the "
                "feature map alone"
            )
        if output is None or not 2 <= len(output.shape) <= 5:
            got = "is not run in a pass" if output is None else f"gives {list(output.shape)}"
            raise ValueError(
                f"module {name!r} {got}; a gate needs a feature map [N, C], [N, C, L], "
                "[N, C, H, W] or [N, C, D, H, W]"
            )
        layout = layout_of(output)
        if layout is None:
            raise ValueError(f"module {name!r}: it is unclear which dimension holds its channels")
        if layout == "NHWC" and len(output.shape) == 3:
            raise ValueError(
                f"module {name!r} gives {list(output.shape)}, a map of tokens [N, L, C]; a gate "
                "needs a feature map, such as [N, C, L] or [N, C, H, W]"
            )
        found.append(Found(Site.of(name, output.shape, layout), reason))
    return found


@contextmanager
def quiet_pass(
    model: nn.Module,
    example: Any,
    remedy: str = "give example=: a tensor, a tuple of positional or a dict of named arguments "
    "that it can take",
) -> Iterator[Any]:
    """Eval mode without gradients, layer by layer; flags and random states are put back.

    Yields the example on the model's device and in its dtype. An example that the model cannot take
    is a ValueError that ends in the remedy.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    devices = [like.device] if like.device.type == "cuda" else []
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices), backend.using("unfused"):
            yield moved(example, like)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        what = "an image" if isinstance(example, torch.Tensor) else "the example"
        raise ValueError(
            f"{type(model).__name__} cannot take {what} {described(example)}: {reason}; {remedy}"
        ) from e
    finally:
        for module, flag in training.items():
            module.training = flag


def infer_examples(model: nn.Module) -> list[torch.Tensor]:
    """Zeros [1, C, H, W] of the size in the model's configuration, else 224 x 224.

    There is a second one where the first convolution takes another number of channels than the
    configuration says (timm's in_chans=).
    """
    channels, size = 3, (224, 224)
    config = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    if config and "input_size" in config:  # timm, and ours
        channels, *size = config["input_size"]
    config = getattr(model, "config", None)  # Hugging Face
    channels = getattr(config, "num_channels", None) or channels
    image_size = getattr(config, "image_size", None) or size
    height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
    convs = [m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    if convs and not isinstance(convs[0], nn.Conv2d):
        sides = (1024,) if isinstance(convs[0], nn.Conv1d) else (32, 64, 64)
        return [torch.zeros(1, convs[0].in_channels, *sides)]
    linear = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    if not convs and linear is not None and not config:
        return [torch.zeros(1, linear.in_features)]
    first = convs[0].in_channels if convs else channels
    return [torch.zeros(1, c, height, width) for c in dict.fromkeys((channels, first))]


def refuse_wrapped(model: nn.Module) -> None:
    """Raise ValueError for a model that must be boosted before it is wrapped."""
    from torch._dynamo.eval_frame import OptimizedModule

    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    parallel = nn.parallel.DistributedDataParallel | nn.DataParallel
    if isinstance(model, parallel):
        raise ValueError(
            f"the model is wrapped in {type(model).__name__}; give its model.module, and wrap that "
            "afterwards"
        )
    report = model.__dict__.get(REPORT)
    if report is not None and report.kind == "folded":
        raise ValueError(
            f"{type(model).__name__} is folded already, for inference; go back to the model that "
            "it was made from"
        )
    lazy = next((n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)), None)
    if lazy is not None:
        raise ValueError(
            f"the size of {lazy!r} is not known before the first pass, and a plan changes nothing; "
            "run the network once on a batch, then boost it"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("the model is a TorchScript module; give the Python module instead")
    for name, module in model.named_modules():
        if isinstance(module, parallel):
            raise ValueError(
                f"the part {name!r} of the model is wrapped in {type(module).__name__}; wrap it "
                "afterwards"
            )
        if isinstance(module, OptimizedModule) or module._compiled_call_impl is not None:
            where = f"the part {name!r} of the model" if name else "the model"
            raise ValueError(
                f"{where} is compiled; do this first (boost, fuse, fold) and compile the result"
            )
        float_sum = isinstance(module, torch.ao.nn.quantized.FloatFunctional)
        if ".quantized" in type(module).__module__ and not float_sum:
            raise ValueError(f"the model is quantised (at {name!r}); boost it before quantising")
