"""`ab.fold`: a network for inference, with norms inside convolutions and gates as affine maps."""

# N batch, C channels in, K channels out, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.fastpath.fold_algebra import Layer, fold_gate, fold_norm
from accuracy_booster.fastpath.folded_forms import FORMS, choose_form, takes_gate
from accuracy_booster.fastpath.folded_gates import fold_gates_left
from accuracy_booster.fastpath.folded_modules import GatedConv, GatedConv2d
from accuracy_booster.fastpath.folded_ultralytics import leave_folded
from accuracy_booster.fastpath.gate_constants import Constants
from accuracy_booster.fastpath.layer_classes import LAYERS, NORMS, is_plain_layer, is_plain_norm
from accuracy_booster.fastpath.merging import (
    merge_gates,
    unfused_copy,
    warn_of_kept,
    with_constant_gates,
)
from accuracy_booster.fastpath.neighbours import Neighbours, SiteContext
from accuracy_booster.fastpath.packed_modules import PackedConv2d
from accuracy_booster.fastpath.packing import Kernel, pack_convolutions
from accuracy_booster.fastpath.reasons import why_not_folded
from accuracy_booster.fastpath.report import FastPath, SiteReport
from accuracy_booster.fastpath.timm_norms import after_norm
from accuracy_booster.fastpath.verifying import verify as verify_fold
from accuracy_booster.ops.packed_conv import why_not
from accuracy_booster.surgery.attaching import detach_unnoted
from accuracy_booster.surgery.hooks import is_hooked
from accuracy_booster.surgery.inputs import Example
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.refusing import refuse_wrapped
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import update_state

Network = TypeVar("Network", bound=nn.Module)


def fold(
    model: Network,
    *,
    example: Example | None = None,
    verify: bool = False,
    static: Constants | None = None,
    kernel: Kernel = "auto",
) -> Network:
    """A new network for inference that computes the same, with the same call.

    Batch norms go into the convolutions and linear layers before them. A gate that reads each
    channel's mean becomes affine maps and a sigmoid. It takes its means from the input of the last
    convolution, before that runs, or from the convolution's output, whichever reads less memory.
    After SE and its like it becomes a part of their factors; after any other module it takes its
    means from the module's output. Its product, the residual sum and the ReLU are one pass. In a
    network without gates the norms are folded. What cannot be folded stays as it is;
    `ab.fast_path(folded)` lists all gates. The model itself does not change.

    Args:
        model: a network in eval mode, boosted or not, fused or not.
        example: images [N, C, H, W] of the size, and best of the batch, that the network will see.
            Their shape decides where the gates are computed. A tuple holds several inputs by
            position, a dict by name. By default one image as for `ab.plan`.
        verify: compare both networks' outputs on the example. Random numbers take the place of
            inputs that are constant, such as the default image. With `static` the folded network
            is compared with the model whose gates give these constants.
        static: gates that become constants first, as for `ab.merge`; those that cannot be merged
            are folded like the others.
        kernel: which kernel computes the convolutions, on the CPU: "auto", the faster one of
            torch's and ours by a short timing of each; "on", ours wherever it can run; "off",
            torch's. At its first use on a machine ours is compiled, in about 15 s.

    Raises:
        ValueError: for a network in training mode, one that is folded already, or wrapped; and as
            `ab.merge`.
        RuntimeError: if verifying finds a difference of more than 1e-5 of the largest output (more
            for 16-bit networks).
    """
    refuse_wrapped(model)
    _refuse_training_mode(model)
    merged: dict[str, torch.Tensor] = {}
    if static is None:
        new = unfused_copy(model)
    else:
        new, merged, kept = merge_gates(model, static)
        warn_of_kept(kept, stacklevel=3)
    neighbours = Neighbours(new, example)
    gates = attached(new)
    modules = dict(new.named_modules())
    reports = [SiteReport(name, True, "merged as a constant") for name in merged]
    sites: dict[str, Site] = {}
    for name, gate in gates.items():
        reports.append(_fold_site(new, modules, name, gate, neighbours.of(name), kernel, sites))
    for conv, norm in neighbours.norms_after_convs():
        folded = not isinstance(new.get_submodule(norm), NORMS)  # with its gate, above
        plain = is_plain_layer(modules[conv]) and is_plain_norm(modules[norm])
        if plain and not folded and conv not in gates and not is_hooked(modules[conv]):
            new.set_submodule(conv, fold_norm(modules[conv], modules[norm]))
            new.set_submodule(norm, _without_norm(modules[norm]))
    repair(new)  # a gate that stays moves to what took the place of its norm
    reports = fold_gates_left(new, neighbours, reports)
    leave_folded(new)
    gated = {name: m for name, m in new.named_modules() if isinstance(m, GatedConv)}
    convolutions = pack_convolutions(
        *(new, neighbours.example, kernel),
        gated={f"{name}.conv" for name in gated},
        sums=_ending_in_sums(new, neighbours),
    )
    reports = [_settled(report, gated, sites) for report in reports]
    update_state(new, fast_path=FastPath("folded", reports, convolutions))
    if verify:
        reference = with_constant_gates(model, merged) if merged else model
        verify_fold(reference, new, neighbours.example)
    return new


@dataclass(frozen=True)
class Site:
    """A gate that was folded: where it is now, the layer before it, and what it was."""

    place: str
    layer: Layer
    gate: Recalibrate
    context: SiteContext


def _refuse_training_mode(model: nn.Module) -> None:
    norms = nn.modules.batchnorm._BatchNorm  # the gates' too
    training = [name for name, m in model.named_modules() if m.training and isinstance(m, norms)]
    if model.training or training:
        what = "it is" if model.training else f"its norm {training[0]!r} is"
        raise ValueError(
            f"cannot fold {type(model).__name__}: {what} in training mode, with statistics that "
            "change; call model.eval() first"
        )


def _fold_site(
    new: nn.Module,
    modules: dict[str, nn.Module],
    name: str,
    gate: Recalibrate,
    context: SiteContext | None,
    kernel: Kernel,
    sites: dict[str, Site],
) -> SiteReport:
    """Fold one gate and the norm before it, in place, if that can be done; note it in `sites`."""
    module = modules[name]
    reason = why_not_folded(modules, name, gate, context)
    if reason is not None:
        return SiteReport(name, False, reason)
    assert context is not None
    assert context.input_shape is not None
    layer = modules[context.conv] if context.conv else module
    assert isinstance(layer, LAYERS)
    detach_unnoted(new, [name])
    plain = fold_norm(layer, module) if context.conv else copy.copy(layer)
    if kernel != "off" and takes_gate(plain, gate):
        form = "kernel"
    else:
        packs = kernel != "off" and why_not(plain) is None
        form = choose_form(plain, gate, context.input_shape, context.shape, packs=packs)
    kind = GatedConv2d if isinstance(plain, nn.Conv2d) else GatedConv
    gated = kind(plain, fold_gate(plain, gate, form), form, context.epilogue(modules))
    for constant in type(plain).__constants__:  # the network may read them, as a layer's `stride`
        setattr(gated, constant, getattr(plain, constant))
    new.set_submodule(context.conv or name, gated.train(layer.training))
    sites[name] = Site(context.conv or name, plain, gate, context)
    if context.conv:
        new.set_submodule(name, _without_norm(module))
    return SiteReport(name, True, f"the gate {FORMS[form]}")


def _settled(
    report: SiteReport, gated: Mapping[str, GatedConv], sites: Mapping[str, Site]
) -> SiteReport:
    """The report of a site, whose gate leaves the kernel if that does not compute it."""
    site = sites.get(report.name)
    if site is None:
        return report
    module = gated[site.place]
    packed = isinstance(module.conv, PackedConv2d)
    if module.form != "kernel" or (packed and module.conv.weighs_gates):  # type: ignore[operator,union-attr]
        return report
    assert site.context.input_shape is not None
    shapes = site.context.input_shape, site.context.shape
    form = "input" if packed else choose_form(site.layer, site.gate, *shapes)
    module.form, module.gate = form, fold_gate(site.layer, site.gate, form)
    return replace(report, how=f"the gate {FORMS[form]}")


def _ending_in_sums(new: nn.Module, neighbours: Neighbours) -> set[str]:
    """The convolutions of a folded network whose output a residual sum reads."""
    found = set()
    for site in neighbours.sites():
        context = neighbours.of(site)
        if context is not None and context.followed_by:
            found |= {name for name in (context.conv, site) if name is not None}
    modules = dict(new.named_modules())  # some sites were parts of norms that are gone
    gated = {name for name in found if isinstance(modules.get(name), GatedConv)}
    return found | {f"{name}.conv" for name in gated}


def _without_norm(norm: nn.Module) -> nn.Module:
    """What a norm does beside normalising."""
    steps = after_norm(norm)
    return nn.Sequential(*steps).train(norm.training) if steps else nn.Identity()
