"""Batch norm, gate, residual sum and ReLU in two passes over a feature map, and their gradients.

    mean_nc, var_nc = sample_moments(z)                           a reduction
    out = relu((z - mean_nc) * scale_nc + shift_nc + residual)    a pointwise pass (`affine`)

z[N, C, H, W] is the input of the norm. scale_nc and shift_nc [N, C] contain the norm's statistics
and weights and the gate's weights. The caller computes them from the moments. `norm_terms` joins
the reduction and what a batch norm makes of its moments.

The gradients take two passes too. The first one is the gradient of the pointwise pass: it gives g,
the gradient of the sum before the ReLU, and those of scale_nc and shift_nc. It does not compute the
gradient of z, because that also needs the gradients of mean_nc and var_nc, which come later. It
leaves g in a `GradientHandoff` instead. The second pass is the gradient of the reduction. It takes
g from there and adds everything up:

    dL/dz = g * scale_nc + (z - mean_nc) * dL/dvar_nc * 2 / (H W) + dL/dmean_nc / (H W)

Of the size of the map, only z and out are kept for the gradients.

A backward pass that is differentiated itself (`create_graph=True`) computes the same formulas in
torch's own operations, in `affine_reference`. Then nothing is left in the handoff: each pass gives
its own part of dL/dz, and autograd adds them up.

Where `backend.needs_torch_operations()`, the same formulas are computed by `affine_reference`, and
autograd or the compiler does the rest.
"""

# N batch, C channels, H W space; values per sample and channel are [N, C], float32 for 16-bit maps

from __future__ import annotations

from typing import Any

import torch

from accuracy_booster.ops import affine_reference, backend


class GradientHandoff:
    """What the gradient of the pointwise pass leaves for the gradient of the reduction.

    It is valid within one backward pass. A backward pass for some parameters alone may never come
    to the reduction; what it left is dropped in the next pass.
    """

    __slots__ = ("grad", "owner", "scale")

    def __init__(self) -> None:
        self.grad: torch.Tensor | None = None
        self.scale: torch.Tensor | None = None
        self.owner = -1  # the number of the backward pass that left them

    def put(self, grad: torch.Tensor, scale: torch.Tensor) -> None:
        """Leave grad[N, C, H, W], the gradient of the sum, and the pass's scale[N, C].

        If the pass left a gradient already, the two are added.
        """
        before, _ = self.take()
        self.grad = grad if before is None else before + grad
        self.scale, self.owner = scale, current_backward_pass()

    def take(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Remove and return what this backward pass left; (None, None) if it left nothing."""
        taken = self.grad, self.scale
        self.grad = self.scale = None
        return taken if self.owner == current_backward_pass() else (None, None)


def current_backward_pass() -> int:
    """The number of the backward pass that is running; -1 if none is."""
    return torch._C._current_graph_task_id()  # type: ignore[attr-defined]


def is_differentiated() -> bool:
    """Whether the backward pass that is running will be differentiated itself: `create_graph`."""
    return torch.is_grad_enabled()


def needs_handoff(z: torch.Tensor) -> bool:
    """Whether the moments of z and the pointwise pass over z are to share a `GradientHandoff`."""
    return z.requires_grad and torch.is_grad_enabled() and not backend.needs_torch_operations()


def sample_moments(
    z: torch.Tensor, handoff: GradientHandoff | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """z[N, C, H, W] -> mean[N, C], variance[N, C] over space (correction 0).

    They have a gradient only with a `handoff`, or where torch's own operations compute them.
    """
    if backend.needs_torch_operations():
        return affine_reference.sample_moments(z)
    if handoff is None:
        return backend.implementation(z).sample_moments(z)
    return _SampleMoments.apply(z, handoff)


class _SampleMoments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: torch.Tensor, handoff: GradientHandoff
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.run = backend.implementation(z)
        mean, var = ctx.run.sample_moments(z)
        ctx.save_for_backward(z, mean)
        ctx.handoff = handoff
        return mean, var

    @staticmethod
    def backward(ctx: Any, d_mean: torch.Tensor, d_var: torch.Tensor) -> tuple[Any, ...]:
        z, mean = ctx.saved_tensors
        area = z.shape[2:].numel()
        values = z, mean, d_var * (2 / area), d_mean / area
        if is_differentiated():
            return affine_reference.input_grad(None, None, *values), None
        return ctx.run.input_grad(*ctx.handoff.take(), *values), None


def affine(
    z: torch.Tensor,
    mean: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    residual: torch.Tensor | None = None,
    relu: bool = False,
    handoff: GradientHandoff | None = None,
) -> torch.Tensor:
    """(z - mean) * scale + shift + residual, then ReLU, in z's type.

    Args:
        z: [N, C, H, W], as residual is. The others are [N, C]. None leaves a term out.
        handoff: the one that `sample_moments` of z got, if it got one.
    """
    if backend.needs_torch_operations():
        centre, shift = _without_gradient(mean, scale, shift)
        return affine_reference.affine(z, centre, scale, shift, residual, relu)
    return _Affine.apply(z, mean, scale, shift, residual, relu, handoff)


def _without_gradient(
    mean: torch.Tensor | None, scale: torch.Tensor, shift: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """A mean[N, C] without gradient, and a shift[N, C] that has the mean's gradient too.

    Autograd would compute the gradient of the mean as a sum of g * scale over space, g being the
    gradient of the output: a compiler then writes g * scale to memory, and reads it again for the
    sum. It is -scale times the sum of g, which is the gradient of shift. So with a constant c that
    has the mean's value, this takes (z - mean) * scale as (z - c) * scale + (c - mean) * scale. The
    last term belongs to the shift; it is 0.
    """
    if mean is None or not (mean.requires_grad and torch.is_grad_enabled()):
        return mean, shift
    centre = mean.detach()
    rest = (centre - mean) * scale
    return centre, rest if shift is None else shift + rest


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        mean: torch.Tensor | None,
        scale: torch.Tensor,
        shift: torch.Tensor | None,
        residual: torch.Tensor | None,
        relu: bool,
        handoff: GradientHandoff | None,
    ) -> torch.Tensor:
        ctx.run = backend.implementation(z)
        out = ctx.run.affine(z, mean, scale, shift, residual, relu)
        ctx.save_for_backward(z, mean, scale, out if relu else None)
        ctx.handoff, ctx.shifted = handoff, shift is not None
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        z, mean, scale, out = ctx.saved_tensors
        run = affine_reference if is_differentiated() else ctx.run
        grad, d_scale, d_shift = run.affine_grads(grad, out, z, mean)
        d_z = None
        if ctx.handoff is not None and not is_differentiated():
            ctx.handoff.put(grad, scale)
        elif ctx.needs_input_grad[0]:
            d_z = run.affine(grad, None, scale, None, None, False).to(z.dtype)
        d_mean = None if mean is None else -scale * d_shift
        d_residual = grad if ctx.needs_input_grad[4] else None
        return d_z, d_mean, d_scale, d_shift if ctx.shifted else None, d_residual, None, None
