"""What a batch norm in training mode and its gate need to know of a feature map, in few operators.

`affine.sample_moments` and torch's own operations compute the same (`affine_reference.norm_terms`
has the formulas). On a GPU the [N, C] values take less time to compute than an operator takes to
launch. Forward and backward, torch's operations are thirty launches and autograd's work for each;
this is one function with two kernels. The fused norms of `fastpath` use it.
"""

# N batch, C channels, H W space; values per sample and channel are [N, C]

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from accuracy_booster.ops import affine_reference, backend
from accuracy_booster.ops.affine import GradientHandoff, is_differentiated


class NormTerms(NamedTuple):
    """What `batch_norm_terms` found.

    Attributes:
        mean_nc: the mean over space of each sample and channel, [N, C].
        scale: weight / sqrt(var + eps), [C].
        descriptor: the mean over space of the norm's output, [N, C].
        mean, var: those of the batch, [C], without gradients.
    """

    mean_nc: torch.Tensor
    scale: torch.Tensor
    descriptor: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor


def batch_norm_terms(
    z: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    handoff: GradientHandoff | None,
) -> NormTerms:
    """The terms of z[N, C, H, W] for the norm with weight[C], bias[C] and eps.

    With a `handoff`, the gradient of z includes what the pointwise pass left there, as that of
    `affine.sample_moments` does.
    """
    return NormTerms(*_BatchNormTerms.apply(z, weight, bias, eps, handoff))


class _BatchNormTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        handoff: GradientHandoff | None,
    ) -> tuple[torch.Tensor, ...]:
        run = backend.implementation(z)
        mean_nc, var_nc = run.sample_moments(z)
        mean, var, inv_std, scale, descriptor = run.norm_terms(mean_nc, var_nc, weight, bias, eps)
        ctx.save_for_backward(z, weight, mean_nc, mean, inv_std, scale)
        ctx.run, ctx.handoff, ctx.eps = run, handoff, eps
        ctx.types = [None if v is None else v.dtype for v in (weight, bias)]
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return mean_nc, scale, descriptor, mean, var

    @staticmethod
    def backward(
        ctx: Any, d_mean_nc: Any, d_scale: Any, d_descriptor: Any, *_: Any
    ) -> tuple[Any, ...]:
        z, weight, *terms = ctx.saved_tensors
        again = is_differentiated()
        run = affine_reference if again else ctx.run
        if again:  # autograd does not know how the kept terms depend on z and on the weight
            mean_nc, var_nc = run.sample_moments(z)
            mean, _, *others, _ = run.norm_terms(mean_nc, var_nc, weight, None, ctx.eps)
            terms = [mean_nc, mean, *others]
        mean_nc = terms[0]
        if d_descriptor is None:  # the descriptor is not part of the loss
            d_descriptor = torch.zeros_like(mean_nc)
        area = z.shape[2:].numel()
        *own, slope, offset = run.norm_terms_grads(d_mean_nc, d_scale, d_descriptor, *terms, area)
        own = [None if t is None else v.to(t) for v, t in zip(own, ctx.types, strict=True)]
        if not ctx.needs_input_grad[0]:
            return None, *own, None, None
        left = (None, None) if ctx.handoff is None or again else ctx.handoff.take()
        return run.input_grad(*left, z, mean_nc, slope, offset), *own, None, None


def weighted_terms(
    scale: torch.Tensor, descriptor: torch.Tensor, p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """scale[C], descriptor[N, C], the gate's p[N, C] -> scale * p and descriptor * p, [N, C]."""
    if backend.needs_torch_operations() or not scale.dtype == descriptor.dtype == p.dtype:
        # expanded over the samples, so that its gradient is summed over space alone at first
        return scale.expand(len(p), -1) * p, descriptor * p
    return _WeightedTerms.apply(scale, descriptor, p)


class _WeightedTerms(torch.autograd.Function):
    """The two products as one step of autograd, which would take longer over them than they do."""

    @staticmethod
    def forward(
        ctx: Any, scale: torch.Tensor, descriptor: torch.Tensor, p: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(scale, descriptor, p)
        return scale * p, descriptor * p

    @staticmethod
    def backward(ctx: Any, d_scale: torch.Tensor, d_shift: torch.Tensor) -> tuple[Any, ...]:
        scale, descriptor, p = ctx.saved_tensors
        d_p = torch.addcmul(d_scale * scale, d_shift, descriptor)
        return (d_scale * p).sum(0), d_shift * p, d_p
