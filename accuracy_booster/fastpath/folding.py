"""Fold a network for inference: norms into convolutions, gates to one affine and a sigmoid."""

# N batch, C channels in, K channels out, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Recalibrate
from accuracy_booster.fastpath import folded_modules, merging
from accuracy_booster.fastpath.fusing import FastPath, Place, not_from_mean
from accuracy_booster.fastpath.neighbours import Flow, Flows
from accuracy_booster.fastpath.scalable_layers import computes_as
from accuracy_booster.fastpath.timm_norms import after_norm, norm_act_classes
from accuracy_booster.ops import accumulation_dtype
from accuracy_booster.ops.pooled_conv import Conv, has_pooled_form
from accuracy_booster.surgery.attaching import attached, detach
from accuracy_booster.surgery.gated import ungated_class
from accuracy_booster.surgery.hooks import is_hooked
from accuracy_booster.surgery.inputs import Example, as_inputs, map_tensors, moved, tensors_of
from accuracy_booster.surgery.refusing import refuse_wrapped
from accuracy_booster.surgery.repairing import repair
from accuracy_booster.surgery.state import update_state

Network = TypeVar("Network", bound=nn.Module)
Layer = Conv | nn.Linear
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
TOLERANCE = 1e-5  # of the largest |output|, in float32

# Reading a map that was just written costs a third of reading one that no longer fits in the
# cache; a matrix that every batch reads anew costs three times its size. Fitted to
# `benchmarks/sites.py`.
CACHE, FRESH, MATRIX = 16 << 20, 1 / 3, 3


def fold(
    model: Network,
    *,
    example: Example | None = None,
    verify: bool = False,
    static: merging.Constants | None = None,
) -> Network:
    """A new network for inference that computes the same, with the same call.

    Batch norms go into the convolutions and linear layers before them. A gate that reads each
    channel's mean becomes one affine map and a sigmoid, computed from the mean of the last
    convolution's input before that runs, or from its output, whichever reads less; its product, the
    residual sum and the ReLU are one pass. In a network without gates the norms are folded. What
    cannot be folded stays as it is; `ab.fast_path(folded)` lists the places of the gates. The model
    itself does not change.

    Args:
        model: a network in eval mode, boosted or not, fused or not.
        example: images [N, C, H, W] of the size, and best of the batch, that it will see: it
            decides where the gates are computed. A tuple holds several inputs by position, a dict
            by name. By default one image as for `ab.plan`.
        verify: compare both networks on random images (or on the example, if it is not constant;
            of several inputs, on random numbers for those that are). With `static` the other
            network is the model with its gates frozen at these constants.
        static: gates that become constants first, as for `ab.merge`; those that cannot be merged
            are folded like the others.

    Raises:
        ValueError: for a network in training mode, one that is folded already, or wrapped; and as
            `ab.merge`.
        RuntimeError: if verifying finds a difference of more than 1e-5 of the largest output (more
            for 16-bit networks).
    """
    refuse_wrapped(model)
    norms = nn.modules.batchnorm._BatchNorm  # the gates' too
    training = [name for name, m in model.named_modules() if m.training and isinstance(m, norms)]
    if model.training or training:
        what = f"its norm {training[0]!r} is" if not model.training else "it is"
        raise ValueError(
            f"cannot fold {type(model).__name__}: {what} in training mode, with statistics that "
            "change; call model.eval() first"
        )
    merged: dict[str, torch.Tensor] = {}
    if static is None:
        new = merging.plain_copy(model)
    else:
        new, merged, kept = merging.merge_gates(model, static)
        merging.warn_of_kept(kept, stacklevel=3)
    flows = Flows(new, example)
    gates = attached(new)
    modules = dict(new.named_modules())
    places = [Place(name, True, "merged as a constant") for name in merged]
    places += [_fold_gate(new, modules, name, gate, flows.of(name)) for name, gate in gates.items()]
    for conv, norm in flows.norms_after_convs():
        done = not isinstance(new.get_submodule(norm), NORMS)  # with its gate
        plain = _is_layer(modules[conv]) and _is_plain(modules[norm])
        if plain and not done and conv not in gates and not is_hooked(modules[conv]):
            _replace(new, conv, fold_norm(modules[conv], modules[norm]))
            _replace(new, norm, _rest_of(modules[norm]))
    repair(new)  # a gate that is left goes onto what stands in for its norm
    update_state(new, fast_path=FastPath("folded", places))
    if verify:
        _verify(merging.frozen(model, merged) if merged else model, new, flows.example)
    return new


def _fold_gate(
    new: nn.Module,
    modules: dict[str, nn.Module],
    name: str,
    gate: Recalibrate,
    flow: Flow | None,
) -> Place:
    """Fold one gate and the norm before it; says how, or why not."""
    module = modules[name]
    reason = _why_not(modules, module, gate, flow)
    if reason is not None:
        return Place(name, False, reason)
    assert flow is not None
    assert flow.input_shape is not None
    conv = modules[flow.conv] if flow.conv else module
    assert isinstance(conv, LAYERS)
    detach(new, [name])
    plain = fold_norm(conv, module) if flow.conv else copy.copy(conv)
    form = choose_form(plain, gate, flow.input_shape, flow.shape)
    around = [modules[other] for other in flow.around]
    kind = folded_modules.GatedConv2d if isinstance(plain, nn.Conv2d) else folded_modules.GatedConv
    gated = kind(plain, fold_gate(plain, gate, form), form, flow.then, around)
    _replace(new, flow.conv or name, gated.train(conv.training))
    if flow.conv:
        _replace(new, name, _rest_of(module))
    return Place(name, True, f"the gate {folded_modules.FORMS[form]}")


def _why_not(
    modules: dict[str, nn.Module], module: nn.Module, gate: Recalibrate, flow: Flow | None
) -> str | None:
    if reason := not_from_mean(gate):
        return reason
    if not isinstance(module, (*NORMS, *LAYERS)):
        return f"a {ungated_class(module).__name__} is no batch norm, convolution or linear layer"
    if flow is None:
        return "it did not run in the pass, or gave no feature map"
    if not flow.call:
        return "it runs several times in a pass, or a module inside it gives its output"
    if _is_layer(module) and flow.call != "batch_norm":
        if isinstance(module, nn.Linear) and len(flow.shape) != 2:
            return "its linear layer runs on sequences or maps whose channels come last"
        return "a hook reads its convolution" if is_hooked(module) else None
    if not _is_plain(module):
        return "its norm has a hook, a class of its own, or no running statistics"
    if steps := after_norm(module):
        return f"its norm goes on with {type(steps[-1]).__name__}"
    if not flow.conv or not _is_layer(modules[flow.conv]):
        return "no plain convolution or linear layer alone feeds its norm"
    if is_hooked(modules[flow.conv]):
        return "a hook reads its convolution"
    return None


def _is_layer(module: nn.Module) -> bool:
    """Whether it computes what torch's own layer does, with a weight of its own; subclasses too."""
    kind = next((kind for kind in LAYERS if isinstance(module, kind)), None)
    if kind is None or module._parameters.get("weight") is None:  # a parametrised weight is none
        return False
    return computes_as(ungated_class(module), kind)


def _is_plain(norm: nn.Module) -> bool:
    known = ungated_class(norm) in (*NORMS, *norm_act_classes())
    return known and norm.running_mean is not None and not is_hooked(norm)


def _rest_of(norm: nn.Module) -> nn.Module:
    """What a norm does beside normalising."""
    steps = after_norm(norm)
    return nn.Sequential(*steps).train(norm.training) if steps else nn.Identity()


@torch.no_grad()
def fold_norm(conv: nn.Module, norm: nn.Module) -> Layer:
    """A layer that computes norm(conv(x)) in eval mode, with new weights (in float64)."""
    assert isinstance(conv, LAYERS)
    assert isinstance(norm, NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double()
    if conv.bias is not None:
        bias = bias + conv.bias.double()
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    new = copy.copy(conv)
    new._parameters = dict(conv._parameters)
    rows = scale.view(-1, *[1] * (conv.weight.ndim - 1))
    weight = (conv.weight.double() * rows).to(conv.weight.dtype)
    new.weight = nn.Parameter(weight, conv.weight.requires_grad)
    new.bias = nn.Parameter(bias.to(conv.weight.dtype), conv.weight.requires_grad)
    return new


@torch.no_grad()
def fold_gate(conv: Layer, gate: Recalibrate, form: str) -> folded_modules.FoldedGate:
    """The gate on the taps' means of conv's input (form "input"), or on the mean of its output."""
    first, *rest = folded_modules.segments(gate[0])  # type: ignore[arg-type]
    stages: list[nn.Module]
    if form == "input":
        assert not isinstance(conv, nn.Linear)
        weight = _matrix(conv)
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
        stages = [folded_modules.linear(*folded_modules.after(first, weight, bias))]
    else:
        stages = [folded_modules.stage(first, len(conv.weight))]
    for layers in rest:
        width = next(layers[0].parameters()).shape[1]
        stages.append(folded_modules.stage(layers, width))
    scale = gate.recipe.gates[0].scale
    dtype = accumulation_dtype(conv.weight.dtype)
    return folded_modules.FoldedGate(stages, scale).to(dtype).eval()


def _matrix(conv: Conv) -> torch.Tensor:
    """The kernel as [K, C * taps], float64, also of a grouped convolution."""
    per_group = conv.weight.double().flatten(1).unflatten(0, (conv.groups, -1))
    return torch.block_diag(*per_group)


def choose_form(
    conv: Layer, gate: Recalibrate, read: tuple[int, ...], written: tuple[int, ...]
) -> str:
    """Where to take the descriptor from, of maps read and written: where fewer bytes are read."""
    if isinstance(conv, nn.Linear) or not has_pooled_form(conv):
        return "output"
    first = folded_modules.segments(gate[0])[0]  # type: ignore[arg-type]
    width = _width(first, conv.out_channels)
    taps = math.prod(conv.kernel_size)
    size = conv.weight.element_size()
    before = size * (math.prod(read) + MATRIX * width * conv.in_channels * taps)
    own = (
        0
        if folded_modules.is_diagonal(first)
        else size * MATRIX * sum(p.numel() for m in first for p in m.parameters())
    )
    after = size * math.prod(written)
    return "input" if before < after * (FRESH if after < CACHE else 1) + own else "output"


def _width(layers: list[nn.Module], width: int) -> int:
    """How many values come out of a segment."""
    for layer in layers:
        weight = getattr(layer, "weight", None)
        if weight is not None and weight.ndim == 2:
            width = len(weight)
    return width


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@torch.no_grad()
def _verify(model: nn.Module, new: nn.Module, example: Example) -> None:
    """Compare the two networks' outputs with the model's in float64.

    A network that amplifies rounding differs from itself; the folded one may be three times as far
    from the truth as the model is.
    """
    like = next(model.parameters())
    args, kwargs = as_inputs(moved(example, like))

    def varied(x: torch.Tensor) -> torch.Tensor:
        constant = x.is_floating_point() and x.numel() > 0 and bool((x == x.flatten()[0]).all())
        return torch.randn_like(x) if constant else x

    args, kwargs = map_tensors(varied, (args, kwargs))
    wide = moved((args, kwargs), like.double())
    exact = tensors_of(copy.deepcopy(model).double()(*wide[0], **wide[1]))
    own, others = (tensors_of(m(*args, **kwargs)) for m in (model, new))
    allowed = TOLERANCE * max(1.0, torch.finfo(like.dtype).eps / torch.finfo(torch.float32).eps)
    for truth, a, b in zip(exact, own, others, strict=True):
        largest = float(truth.abs().max())
        if not math.isfinite(largest):
            raise RuntimeError(
                "cannot verify: the model's own output is not finite; give another example"
            )
        before, after = (float((x - truth).abs().max()) for x in (a, b))
        if not after <= max(allowed * largest, 3 * before):
            raise RuntimeError(
                f"the folded network is {after:.3g} from the exact output, the model {before:.3g}; "
                f"at most {allowed * largest:.3g} was expected ({allowed:.0e} of the largest)"
            )
