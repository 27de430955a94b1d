"""A norm, its gate, the residual sum and the ReLU in two passes, forward and backward.

    mean_nc, var_nc = moments(z)                      one reduction
    out = relu((z - mean_nc) * A_nc + B_nc + residual)      one pointwise pass

What lies between, [N, C] values, is ordinary torch with its ordinary gradients. The gradient of z
needs both passes' results, so the second leaves its part (`Link`) for the first, which adds all in
one pass: dz = A g + (z - mean) dvar 2 / HW + dmean / HW. Nothing of the map's size is kept beyond z
and the output.

Under a compiler the same algebra is written out (`traced`), and the compiler fuses it.
"""

# N batch, C channels, H W space; per-sample values are [N, C], float32 for 16-bit maps

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from accuracy_booster.ops import affine_reference, backend


def traced(x: torch.Tensor) -> bool:
    """Whether to write the algebra out: for a compiler, or what autograd functions do not take."""
    return backend.is_traced() or torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]


class Link:
    """The gradient that the pointwise pass leaves for the reduction: its own part of dz.

    It belongs to one backward pass: what a pass left that never reached the reduction (one for some
    parameters alone) is dropped by the next.
    """

    __slots__ = ("grad", "scale", "task")

    def __init__(self) -> None:
        self.grad: torch.Tensor | None = None
        self.scale: torch.Tensor | None = None
        self.task = -1

    def put(self, grad: torch.Tensor, scale: torch.Tensor) -> None:
        before, _ = self.take()
        self.grad = grad if before is None else before + grad
        self.scale, self.task = scale, backward_pass()

    def take(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        taken = self.grad, self.scale
        self.grad = self.scale = None
        return taken if self.task == backward_pass() else (None, None)


def backward_pass() -> int:
    """The number of the backward pass that is running; -1 if none is."""
    return torch._C._current_graph_task_id()  # type: ignore[attr-defined]


def needs_link(z: torch.Tensor) -> bool:
    """Whether z's moments and what is made of z share the work of the gradient."""
    return z.requires_grad and torch.is_grad_enabled() and not traced(z)


def moments(z: torch.Tensor, link: Link | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """z[N, C, H, W] -> mean[N, C], variance[N, C] over space (correction 0)."""
    if traced(z):
        return affine_reference.moments(z)
    if link is None:
        return backend.implementation(z).moments(z)
    return _Moments.apply(z, link)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, link: Link):
        mean, var = backend.implementation(z).moments(z)
        ctx.save_for_backward(z, mean)
        ctx.link = link
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mean: torch.Tensor, d_var: torch.Tensor):
        z, mean = ctx.saved_tensors
        area = z.shape[2:].numel()
        run = backend.implementation(z).input_grad
        return run(*ctx.link.take(), z, mean, d_var * (2 / area), d_mean / area), None


def affine(
    z: torch.Tensor,
    mean: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    *,
    residual: torch.Tensor | None = None,
    relu: bool = False,
    link: Link | None = None,
) -> torch.Tensor:
    """(z - mean) * scale + shift + residual, then ReLU, in z's type.

    z and residual are [N, C, H, W], the others [N, C]; None leaves a term out. `link` is the one
    that z's moments were taken with.
    """
    if traced(z):
        return affine_reference.affine(z, mean, scale, shift, residual, relu)
    return _Affine.apply(z, mean, scale, shift, residual, relu, link)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z, mean, scale, shift, residual, relu: bool, link: Link | None):
        out = backend.implementation(z).affine(z, mean, scale, shift, residual, relu)
        ctx.save_for_backward(z, mean, scale, out if relu else None)
        ctx.link, ctx.shifted = link, shift is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):
        z, mean, scale, out = ctx.saved_tensors
        grad, d_scale, d_shift = backend.implementation(z).affine_grads(grad, out, z, mean)
        d_z = None
        if ctx.link is not None:
            ctx.link.put(grad, scale)
        elif ctx.needs_input_grad[0]:
            run = backend.implementation(grad).affine
            d_z = run(grad, None, scale, None, None, False).to(z.dtype)
        d_mean = None if mean is None else -scale * d_shift
        d_residual = grad if ctx.needs_input_grad[4] else None
        return d_z, d_mean, d_scale, d_shift if ctx.shifted else None, d_residual, None, None
