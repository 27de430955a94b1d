"""Fuse the norms at the ends of residual branches with their gates, and say which and why not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.fastpath import fused_modules
from accuracy_booster.fastpath.neighbours import Flow, Flows
from accuracy_booster.fastpath.timm_norms import after_norm, norm_act_classes
from accuracy_booster.surgery.attaching import attached
from accuracy_booster.surgery.gated import is_gated, ungated_class
from accuracy_booster.surgery.gating import gated_class
from accuracy_booster.surgery.inputs import Example
from accuracy_booster.surgery.refusing import refuse_wrapped
from accuracy_booster.surgery.repairing import Model, repair
from accuracy_booster.surgery.state import state_of, update_state
from accuracy_booster.tables import Table

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fused_classes() -> dict[type[nn.Module], type[nn.Module]]:
    """{a module's class: what it becomes}."""
    table: dict[type[nn.Module], type[nn.Module]] = {
        nn.BatchNorm1d: fused_modules.FusedBatchNorm1d,
        nn.BatchNorm2d: fused_modules.FusedBatchNorm2d,
        nn.BatchNorm3d: fused_modules.FusedBatchNorm3d,
        nn.SyncBatchNorm: fused_modules.FusedSyncBatchNorm,
        nn.Conv1d: fused_modules.FusedConv1d,
        nn.Conv2d: fused_modules.FusedConv2d,
        nn.Conv3d: fused_modules.FusedConv3d,
    }
    if classes := norm_act_classes():
        from accuracy_booster.fastpath import fused_timm_modules as fused_timm

        names = fused_timm.FusedBatchNormAct2d, fused_timm.FusedSyncBatchNormAct
        table |= dict(zip(classes, names, strict=True))
    return table


@dataclass(frozen=True)
class Place:
    """A place of a gate, or of none yet: whether it takes the fast path, and how or why not."""

    name: str
    fast: bool
    how: str


@dataclass(frozen=True)
class FastPath:
    """What `ab.fuse` or `ab.fold` did; `print(ab.fast_path(model))` shows it as a table."""

    kind: str  # fused or folded
    places: list[Place]

    @property
    def taken(self) -> int:
        """How many places take the fast path."""
        return sum(place.fast for place in self.places)

    def table(self) -> Table:
        rows = [[p.name, "fast" if p.fast else "as before", p.how] for p in self.places]
        return Table(["module", "path", "how, or why not"], rows)

    def summary(self) -> str:
        return f"{self.kind}: {self.taken} of {len(self.places)} places take the fast path"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "taken": self.taken}

    def __str__(self) -> str:
        return "\n".join([*self.table().lines(), self.summary()])


def fuse(model: Model, *, example: Example | None = None) -> Model:
    """Compute each norm at the end of a residual branch, its gate, the sum and the ReLU together.

    In place; the result is the same up to rounding, in training and in eval mode, and so are the
    running statistics, the names in the state dict and the gradients. Places that cannot be fused
    stay as they are; `ab.fast_path(model)` lists them all, with the reason. Works on boosted
    networks and on plain ones, whose norm, sum and ReLU are then one pass. For speed compile the
    fused network, or train it on a GPU, where Triton's kernels run.

    Args:
        model: a network on any device, not wrapped or compiled.
        example: an image [1, C, H, W], or several inputs, as for `ab.plan`.

    Returns:
        The model.

    Raises:
        ValueError: for a model that is fused or folded already, or wrapped.
    """
    refuse_wrapped(model)
    if (done := state_of(model).fast_path) is not None:
        raise ValueError(
            f"{type(model).__name__} is {done.kind} already"
            + ("; ab.unfuse(model) undoes it" if done.kind == "fused" else "")
        )
    repair(model)
    flows = Flows(model, example)
    gates = attached(model)
    modules = dict(model.named_modules())
    places = []
    for name in dict.fromkeys([*gates, *flows.sites()]):
        flow, gate = flows.of(name), gates.get(name)
        reason = why_not(modules[name], flow, gate)
        if reason is None:
            assert flow is not None
            module = modules[name]
            module.__class__ = fused_classes()[ungated_class(module)]
            module.__dict__["then"] = flow.then
            module.__dict__["around"] = tuple(modules[other] for other in flow.around)
            module.__dict__["adder"] = () if flow.adder is None else (modules[flow.adder],)
        how = reason or _how(flow, gate)
        places.append(Place(name, reason is None, how))
    update_state(model, fast_path=FastPath("fused", places))
    return model


def unfuse(model: Model) -> Model:
    """Undo `ab.fuse`, in place; returns the model.

    Raises:
        ValueError: if it is not fused.
    """
    report = _report(model)
    if report is None or report.kind != "fused":
        raise ValueError(f"{type(model).__name__} is not fused")
    original = {after: before for before, after in fused_classes().items()}
    for module in model.modules():
        if isinstance(module, fused_modules.Fused):
            cls = original[type(module)]
            cls = gated_class(cls) if is_gated(module) else cls
            setattr(module, "__class__", cls)  # noqa: B010 - for mypy
            for attribute in ("then", "around", "adder"):
                module.__dict__.pop(attribute, None)
    update_state(model, fast_path=None)
    return model


def fast_path(model: nn.Module) -> FastPath:
    """What `ab.fuse` or `ab.fold` did with each place of a gate.

    Raises:
        ValueError: for a model that is neither fused nor folded.
    """
    report = _report(model)
    if report is None:
        raise ValueError(
            f"{type(model).__name__} is neither fused nor folded; 'accuracy-booster plan NAME "
            "--fast-path' shows what both would do"
        )
    return report


def _report(model: nn.Module) -> FastPath | None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected an nn.Module, got {type(model).__name__}")
    return state_of(model).fast_path


def why_not(module: nn.Module, flow: Flow | None, gate: Recalibrate | None) -> str | None:
    """Why a place cannot take the fast path, in a few words; None if it can."""
    if gate is not None and (reason := not_from_mean(gate)):
        return reason
    if flow is not None and len(flow.shape) == 2:
        return "its output is [N, C]: there is no space to take means over, and nothing to share"
    if ungated_class(module) not in fused_classes():
        name = ungated_class(module).__name__
        return f"a {name} is no batch norm or convolution that can be fused"
    if flow is None:
        return "it did not run in the pass, or gave no feature map"
    conv = isinstance(module, CONVS)
    if flow.call not in (("conv1d", "conv2d", "conv3d") if conv else ("batch_norm",)):
        return "it runs several times in a pass"
    if steps := after_norm(module):
        return f"its norm goes on with {type(steps[-1]).__name__}"
    if conv and gate is None:
        return "a convolution without a gate has nothing to fuse"
    return None


def not_from_mean(gate: Recalibrate) -> str | None:
    """Why a gate cannot be known from each channel's mean; None if it can."""
    if gate.layout != "NCHW":
        return f"its map is {gate.layout}"
    recipe = gate.recipe
    if len(recipe.gates) != 1 or not recipe.gates[0].reads_only_mean:
        return f"the gate reads more than each channel's mean: {recipe}"
    return None


def _how(flow: Flow | None, gate: Recalibrate | None) -> str:
    assert flow is not None
    steps = ["norm" if flow.call == "batch_norm" else "convolution"]
    steps += ["gate"] * (gate is not None)
    steps += {"": [], "sum": ["sum"], "relu": ["sum", "ReLU"]}[flow.then]
    return " + ".join(steps)
