"""`ab.fuse`: compute the end of each residual branch in one pass; `ab.unfuse` undoes it."""

from __future__ import annotations

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.fastpath.class_swapping import to_fused_class, to_original_class
from accuracy_booster.fastpath.fused_modules import Fused
from accuracy_booster.fastpath.neighbours import Neighbours, SiteContext
from accuracy_booster.fastpath.reasons import why_not_fused
from accuracy_booster.fastpath.report import FastPath, SiteReport, report_of
from accuracy_booster.surgery.inputs import Example
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.refusing import refuse_wrapped
from accuracy_booster.surgery.repairing import Model, repair
from accuracy_booster.surgery.state import update_state


def fuse(model: Model, *, example: Example | None = None) -> Model:
    """Compute each norm at the end of a residual branch, its gate, the sum and the ReLU together.

    In place. Outputs and gradients are the same up to rounding, in training and in eval mode. So
    are the running statistics and the names in the state dict. Sites that cannot be fused stay as
    they are; `ab.fast_path(model)` lists them all, with the reason. A network without gates can be
    fused too: its last norms, sums and ReLUs then are one pass. Compile the fused network, or run
    it in eager mode, where kernels do it: Triton's on a GPU, C++ on the CPU. What has no kernel
    runs as before (docs/speed.md).

    Args:
        model: a network on any device, not wrapped or compiled.
        example: an image [1, C, H, W], or several inputs, as for `ab.plan`.

    Returns:
        The model.

    Raises:
        ValueError: for a model that is fused or folded already, or wrapped.
    """
    refuse_wrapped(model)
    if (done := report_of(model)) is not None:
        raise ValueError(
            f"{type(model).__name__} is {done.kind} already"
            + ("; ab.unfuse(model) undoes it" if done.kind == "fused" else "")
        )
    repair(model)
    neighbours = Neighbours(model, example)
    gates = attached(model)
    modules = dict(model.named_modules())
    reports = []
    for name in dict.fromkeys([*gates, *neighbours.sites()]):
        module, context, gate = modules[name], neighbours.of(name), gates.get(name)
        reason = why_not_fused(module, gate, context)
        if reason is not None:
            reports.append(SiteReport(name, False, reason))
            continue
        assert context is not None
        to_fused_class(module, context.epilogue(modules))
        reports.append(SiteReport(name, True, _steps(context, gate)))
    update_state(model, fast_path=FastPath("fused", reports))
    return model


def unfuse(model: Model) -> Model:
    """Undo `ab.fuse`, in place; returns the model.

    Raises:
        ValueError: if it is not fused.
    """
    report = report_of(model)
    if report is None or report.kind != "fused":
        raise ValueError(f"{type(model).__name__} is not fused")
    for module in model.modules():
        if isinstance(module, Fused):
            to_original_class(module)
    update_state(model, fast_path=None)
    return model


def _steps(context: SiteContext, gate: Recalibrate | None) -> str:
    """What is computed together at a site, such as "norm + gate + sum + ReLU"."""
    steps = ["norm" if context.call == "batch_norm" else "convolution"]
    steps += ["gate"] * (gate is not None)
    steps += {"": [], "sum": ["sum"], "relu": ["sum", "ReLU"]}[context.followed_by]
    return " + ".join(steps)
