"""Norms and convolutions that compute their gate, the sum and the ReLU in their own pass.

`class_swapping` turns a module of a network into one of these. Where the fast way does not apply,
each computes what it computed before, and its gate after that.
"""

# N batch, C channels, H W space (or L, or D H W)

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from accuracy_booster.blocks import Gate, Recalibrate
from accuracy_booster.fastpath.epilogue import Epilogue
from accuracy_booster.fastpath.gated_convolution import gated_convolution, mean_over_space
from accuracy_booster.ops import accumulation_dtype, affine, backend, leaf_module, without_autocast
from accuracy_booster.ops.moments import (
    BatchMoments,
    Synchronise,
    is_synchronised,
    moments_of_samples,
    update_running_statistics,
)
from accuracy_booster.ops.norm_terms import batch_norm_terms, weighted_terms
from accuracy_booster.ops.pooled_conv import has_pooled_form, pooled_conv
from accuracy_booster.ops.scaled_conv import scaled_conv, scales_weights
from accuracy_booster.ops.synchronising import moments_of_all_processes
from accuracy_booster.surgery.gate_warnings import warn_of_frozen_gate
from accuracy_booster.surgery.gated import gate_of
from accuracy_booster.surgery.own_forwards import set_forward

Map = Any  # a tensor [N, C, H, W], or a DeferredMap
Self = TypeVar("Self", bound="Fused")


class Fused(nn.Module):
    """What fused modules have in common: each applies its own gate, if it has one.

    Attributes:
        epilogue: what follows; `class_swapping.to_fused_class` sets it.
        ranks: how many dimensions a map has for which there is a fast way.
    """

    _applies_gate = True  # read by `surgery.gated`, as is the path to the gate
    _gate_path: tuple[str, ...] = ()
    epilogue = Epilogue()
    ranks: tuple[int, ...] = ()

    def _gate(self) -> Gate | None:
        """The gate, if there is one and it is enabled."""
        block: Recalibrate | None = gate_of(self)
        return block[0] if block is not None and block.enabled else None  # type: ignore[return-value]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "forward":
            set_forward(self, value)
        else:
            super().__setattr__(name, value)

    def eval(self: Self) -> Self:
        warn_of_frozen_gate(self)
        return super().eval()

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        if not requires_grad:
            warn_of_frozen_gate(self)
        return super().requires_grad_(requires_grad)

    def _original_forward(self, x: torch.Tensor) -> torch.Tensor:
        """That of the class before fusing, without the gate."""
        return super().forward(x)  # type: ignore[misc]

    def _unfused(self, x: torch.Tensor) -> torch.Tensor:
        """What the module gave before fusing: its output, then the gate."""
        y, block = self._original_forward(x), gate_of(self)
        return y if block is None else block(y)

    def _finish(
        self,
        z: torch.Tensor,
        mean: torch.Tensor | None,
        scale: torch.Tensor,
        shift: torch.Tensor | None,
        handoff: affine.GradientHandoff | None,
        may_defer: bool,
    ) -> Map:
        """(z - mean) * scale + shift, now or together with the sum and the ReLU that follow."""
        if may_defer:
            deferred = self.epilogue.defer(self, z, mean, scale, shift, handoff)
            if deferred is not None:
                return deferred
        return affine.affine(z, mean, scale, shift, handoff=handoff)


class FusedNorm(Fused):
    """Batch norm and gate from one reduction over the map z[N, C, H, W].

    Let mu_nc be the mean over space of sample n and channel c, mu and var the batch's (or the
    running) mean and variance of channel c, a = gamma / sqrt(var + eps), and p the gate's weight.

        d_nc = mean over space of BN(z) = a (mu_nc - mu) + beta        what the gate reads
        p BN(z) = (z - mu_nc) a p + d_nc p                             what the module returns

    So the moments of z give the statistics and the descriptor, and one affine pass gives the rest.
    Without a gate p = 1; in eval mode without a gate 0 takes the place of mu_nc.
    """

    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    num_batches_tracked: torch.Tensor | None
    momentum: float | None
    track_running_stats: bool
    weight: Any
    bias: Any
    eps: float

    @leaf_module(may_defer=False)  # users of a torch.fx graph may read any node
    def forward(self, x: torch.Tensor, may_defer: bool = True) -> Map:
        """x[N, C, H, W] -> the same shape; a deferred map only with `may_defer`."""
        if x.ndim not in self.ranks or x.numel() == 0 or not backend.fuses(x):
            return self._unfused(x)
        gate = self._gate()
        dtype = accumulation_dtype(x.dtype)
        handoff = mean_nc = None
        if self.training or self.running_mean is None:
            handoff = affine.GradientHandoff() if affine.needs_handoff(x) else None
            mean_nc, scale, descriptor = self._of_batch(x, handoff)
        else:
            assert self.running_var is not None
            mean, var = self.running_mean.to(dtype), self.running_var.to(dtype)
            if gate is not None:
                mean_nc = mean_over_space(x)
            scale, descriptor = self._scale_and_descriptor(mean_nc, mean, var)
        # [N, C] also where all samples have the same: their gradients are then sums over space
        # alone, as those of the gate are
        descriptor = descriptor.expand(len(x), -1)
        if gate is None:
            scale = scale.expand(len(x), -1)
        else:
            scale, descriptor = weighted_terms(scale, descriptor, gate.weigh([descriptor]))
        return self._finish(x, mean_nc, scale.to(dtype), descriptor.to(dtype), handoff, may_defer)

    def _of_batch(
        self, x: torch.Tensor, handoff: affine.GradientHandoff | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """mean_nc[N, C], scale[C] and descriptor[N, C]; running statistics move as PyTorch's do."""
        area = x.shape[2:].numel()
        if len(x) * area == 1:
            raise ValueError(
                "expected more than 1 value per channel when training, got input size "
                f"{list(x.shape)}"
            )
        synchronise = self._synchronise()
        if synchronise is None and not (is_synchronised() or backend.needs_torch_operations()):
            terms = batch_norm_terms(x, self.weight, self.bias, self.eps, handoff)
            self._move_running(BatchMoments(terms.mean, terms.var, len(x) * area))
            return terms.mean_nc, terms.scale, terms.descriptor
        mean_nc, var_nc = affine.sample_moments(x, handoff)
        moments = moments_of_samples(mean_nc, var_nc, area, synchronise)
        self._move_running(moments)
        scale, descriptor = self._scale_and_descriptor(mean_nc, moments.mean, moments.var)
        return mean_nc, scale, descriptor

    def _scale_and_descriptor(
        self, mean_nc: torch.Tensor | None, mean: torch.Tensor, var: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """scale[C] and descriptor[N, C], or without mean_nc the norm of 0, [C]."""
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        centre = mean.new_zeros(()) if mean_nc is None else mean_nc
        descriptor = (centre - mean) * scale
        if self.bias is not None:
            descriptor = descriptor + self.bias
        return scale, descriptor

    def _move_running(self, moments: BatchMoments) -> None:
        """Move the running statistics towards the batch's, in training mode."""
        if not (self.training and self.track_running_stats):
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # a cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        update_running_statistics(self.running_mean, self.running_var, moments, momentum)

    def _synchronise(self) -> Synchronise | None:
        """What combines the moments of several processes; None leaves that to the scope."""
        return None


class FusedBatchNorm1d(FusedNorm, nn.BatchNorm1d):
    ranks = (3,)


class FusedBatchNorm2d(FusedNorm, nn.BatchNorm2d):
    ranks = (4,)


class FusedBatchNorm3d(FusedNorm, nn.BatchNorm3d):
    ranks = (5,)


class FusedSyncBatchNorm(FusedNorm, nn.SyncBatchNorm):
    process_group: Any
    ranks = (3, 4, 5)

    def _synchronise(self) -> Synchronise | None:
        distributed = torch.distributed
        if not (self.training and distributed.is_available() and distributed.is_initialized()):
            return None
        group = self.process_group
        return (
            partial(moments_of_all_processes, group=group)
            if distributed.get_world_size(group) > 1
            else None
        )


class FusedConv(Fused):
    """A convolution with a gate, known before the convolution runs where pooling allows it."""

    @leaf_module(may_defer=False)
    def forward(self, x: torch.Tensor, may_defer: bool = True) -> Map:
        """x[N, C, H, W] -> p * conv(x); a deferred map only with `may_defer`."""
        gate = self._gate()
        if gate is None or x.ndim not in self.ranks or not backend.fuses(x):
            return self._unfused(x)
        conv: Any = self

        def describe(x: torch.Tensor) -> torch.Tensor:
            with without_autocast(x):
                return pooled_conv(x, conv)

        def weigh(descriptor: torch.Tensor) -> torch.Tensor:
            return gate.weigh([descriptor])

        pools = has_pooled_form(conv)
        if pools and scales_weights(x, conv):
            return scaled_conv(x, conv, weigh(describe(x)))
        z, p = gated_convolution(
            x,
            convolve=self._original_forward,
            weigh=weigh,
            describe=describe if pools else None,
        )
        return self._finish(z, None, p, None, None, may_defer)


class FusedConv1d(FusedConv, nn.Conv1d):
    ranks = (3,)


class FusedConv2d(FusedConv, nn.Conv2d):
    ranks = (4,)


class FusedConv3d(FusedConv, nn.Conv3d):
    ranks = (5,)
