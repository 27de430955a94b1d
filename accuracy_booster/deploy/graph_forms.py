"""The graph form in which each folded gate of a network is exported.

A runtime joins a convolution with the sum and the ReLU that follow it. A gate stands between them,
so the best graph is the one that breaks the least. `exportable` replaces each folded gate by plain
operators (`graph_gates`) in the form that is fastest in the runtime, measured for each distinct
site (`graph_timing`).
"""

# N batch, C channels in, K channels out, H W space

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from torch import nn

from accuracy_booster.deploy.graph_gates import (
    GraphConv,
    GraphGate,
    GraphScale,
    Product,
    after_conv,
    before_conv,
    is_channelwise,
    reads_input,
    stages_of,
)
from accuracy_booster.deploy.graph_timing import NEEDS, Around, times_of
from accuracy_booster.errors import unknown
from accuracy_booster.fastpath.folded_gates import MeanGate
from accuracy_booster.fastpath.folded_modules import FoldedGate, GatedConv

AS_FOLDED = "as folded"
# {runtime: (kind of the gate, product) that are tried}; the first one is the default. onnxruntime
# has pooling and convolutions in its blocked layout, but no reduction. OpenVINO and torch have one
# layout for all operators of a site.
TRIED = {
    "onnx": [("convolutions", "broadcast"), ("convolutions", "map")],
    "openvino": [(kind, "broadcast") for kind in ("reduced", "pooled", "convolutions")],
    "torch": [("reduced", "broadcast")],
}
GAIN = 0.03  # a form must be this much faster than the default to take its place
BATCHES = (1, 16)
ATTRIBUTE = "graph_forms"  # of the exported network

Build = Callable[[], nn.Module]
Ratios = Mapping[str, Mapping[int, float]]  # {form: {batch size: time over the default's}}


@dataclass(frozen=True)
class GraphForm:
    """The form of one gate in an exported graph.

    Attributes:
        name: the module.
        form: "SIDE, KIND, PRODUCT" as `graph_gates` has them, or "as folded".
        of_default: {form: {batch size: its time over that of the default form}}, for the site
            alone; empty if nothing was measured.
    """

    name: str
    form: str
    of_default: Ratios = field(default_factory=dict)


@dataclass(frozen=True)
class _Site:
    """A folded gate in a network that ran: the module to replace, and what it read and gave."""

    name: str
    module: nn.Module
    given: tuple[int, ...]
    gives: tuple[int, ...]

    @property
    def gate(self) -> FoldedGate:
        return self.module.gate  # type: ignore[return-value]

    @property
    def followed_by(self) -> str:
        return self.module.epilogue.followed_by  # type: ignore[return-value,union-attr]

    def key(self) -> tuple[object, ...]:
        """Equal for sites that are measured once."""
        conv = getattr(self.module, "conv", None)
        stages = [tuple(p.shape) for p in self.gate.parameters()]
        form = getattr(self.module, "form", "")
        return (str(conv), self.given[1:], self.gives[1:], str(stages), form, self.followed_by)


def exportable(
    folded: nn.Module,
    runtime: str,
    example: torch.Tensor,
    *,
    measure: bool = True,
    batches: tuple[int, ...] = BATCHES,
    seconds: float = 1.0,
) -> nn.Module:
    """A copy of a folded network whose gates have the graph form that is best for a runtime.

    It computes the same up to rounding, for images of the example's height and width and for any
    batch size. `forms_of` tells which forms it has. What is no folded gate on maps with two
    dimensions of space in 32 bits stays as it is.

    Args:
        folded: what `ab.fold(..., kernel="off")` gave, on the CPU.
        runtime: "onnx", "openvino" or "torch", as formats of files are named.
        example: images [N, C, H, W]. The first one is run.
        measure: time each form of each distinct site in its runtime. Without it, or where the
            runtime is not installed, all sites have the default form.
        batches: the batch sizes that are measured. Their ratios count alike.
        seconds: of measuring, for one batch size of one site.

    Raises:
        ValueError: for an unknown runtime, or a network in training mode.
    """
    if runtime not in TRIED:
        raise unknown("runtime", runtime, TRIED)
    if folded.training:
        raise ValueError(
            f"{type(folded).__name__} is in training mode, but files are exported for inference; "
            "call eval() first"
        )
    network = copy.deepcopy(folded)
    measure = measure and all(find_spec(package) for package in NEEDS[runtime])
    known: dict[tuple[object, ...], tuple[str, Ratios]] = {}
    taken = []
    for site in _sites(network, example[:1]):
        forms = _forms(site, runtime)
        form: str = next(iter(forms))
        ratios: Ratios = {}
        if measure and len(forms) > 1:
            if site.key() not in known:
                known[site.key()] = _fastest(site, forms, runtime, batches, seconds)
            form, ratios = known[site.key()]
        network.set_submodule(site.name, forms[form]())
        taken.append(GraphForm(site.name, form, ratios))
    setattr(network, ATTRIBUTE, taken)
    return network


def forms_of(network: nn.Module) -> list[GraphForm]:
    """The forms of the gates of a network that `exportable` made; empty for other networks."""
    return getattr(network, ATTRIBUTE, [])


@torch.no_grad()
def _sites(network: nn.Module, image: torch.Tensor) -> list[_Site]:
    """The folded gates on 32-bit maps [N, C, H, W] that a network runs, in their order."""
    modules = {
        name: m for name, m in network.named_modules() if isinstance(m, GatedConv | MeanGate)
    }
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    hooks = []
    for name, module in modules.items():

        def note(_: nn.Module, given: tuple, gives: torch.Tensor, name: str = name) -> None:
            maps = given[0], gives
            if all(m.ndim == 4 and m.dtype == torch.float32 for m in maps):
                shapes[name] = tuple(given[0].shape), tuple(gives.shape)

        hooks.append(module.register_forward_hook(note))
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [_Site(name, modules[name], *shapes[name]) for name in modules if name in shapes]


def _forms(site: _Site, runtime: str) -> dict[str, Build]:
    """What may take the place of a site's module, by name; the default form is the first."""
    module = site.module
    stages = stages_of(site.gate)
    if stages is None or getattr(module, "change", None) is not None:
        return {AS_FOLDED: lambda: module}
    sides = {"output": stages} if isinstance(module, MeanGate) else _sides(module, stages)
    forms: dict[str, Build] = {}
    for kind, product in TRIED[runtime]:
        if product == "map" and not site.followed_by:
            continue  # without a sum, ShuffleNet took longer in onnxruntime than with a broadcast
        for side, own in sides.items():
            if kind == "pooled" and not any(map(is_channelwise, own)):
                continue  # it is the same as with convolutions

            def build(
                side: str = side, own: list = own, kind: str = kind, product: str = product
            ) -> nn.Module:
                space = site.given[2:] if side == "input" else site.gives[2:]
                gate = GraphGate(own, kind, site.gate.scale, space)  # type: ignore[arg-type]
                scaled = Product(product, site.gives[2:])  # type: ignore[arg-type]
                if isinstance(module, MeanGate):
                    return GraphScale(gate, scaled).eval()
                return GraphConv(module.conv, gate, side, scaled).eval()  # type: ignore[arg-type]

            forms[f"{side}, {kind}, {product}"] = build
    if runtime == "torch" or not forms:
        forms = {AS_FOLDED: lambda: module, **forms}
    return forms


def _sides(module: nn.Module, stages: list[nn.Conv2d]) -> dict[str, list[nn.Conv2d]]:
    """The gate's stages for each side of the convolution that they can read, the folded one first.

    The folded side is the one on which the gate reads less memory.
    """
    conv, first, rest = module.conv, stages[0], stages[1:]
    assert isinstance(conv, nn.Module)
    if module.form == "output":
        sides = {"output": stages}
        if reads_input(conv):
            sides["input"] = [before_conv(first, conv), *rest]  # type: ignore[arg-type]
        return sides
    if not reads_input(conv):
        return _beside_taps(conv, first, rest)
    sides = {"input": stages}
    after = after_conv(first, conv)  # type: ignore[arg-type]
    if after is not None:
        sides["output"] = [after, *rest]
    return sides


def _beside_taps(
    conv: nn.Module, first: nn.Conv2d, rest: list[nn.Conv2d]
) -> dict[str, list[nn.Conv2d]]:
    """The output's side, for a gate that reads the means of the taps of a larger kernel."""
    after = after_conv(first, conv) if isinstance(conv, nn.Conv2d) and conv.groups == 1 else None
    return {} if after is None else {"output": [after, *rest]}


def _fastest(
    site: _Site,
    forms: Mapping[str, Build],
    runtime: str,
    batches: tuple[int, ...],
    seconds: float,
) -> tuple[str, Ratios]:
    """The form with the least time, and the ratios of all forms to the default."""
    networks = {
        form: Around(build(), site.given[1:], site.gives[1:], site.followed_by).eval()
        for form, build in forms.items()
    }
    ratios: dict[str, dict[int, float]] = {form: {} for form in forms}
    for batch, of_default in times_of(networks, runtime, site.given[1:], batches, seconds).items():
        for form, ratio in of_default.items():
            ratios[form][batch] = ratio
    default = next(iter(forms))
    means = {form: sum(by.values()) / len(by) for form, by in ratios.items()}
    best = min(means, key=lambda form: means[form])
    return (best if means[best] < 1 - GAIN else default), ratios
