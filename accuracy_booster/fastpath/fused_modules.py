"""Modules that compute what they did and apply their gate in the same pass.

`ab.fuse` changes the class of a norm or convolution to one of these and nothing else: parameters,
buffers, children and hooks stay. Each falls back to what it was where the fast way does not apply.
"""

# N batch, C channels, H W space (or L, or D H W)

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from accuracy_booster.blocks import Gate, Recalibrate
from accuracy_booster.ops import (
    accumulation_dtype,
    backend,
    leaf_module,
    without_autocast,
)
from accuracy_booster.ops import (
    affine as fused,
)
from accuracy_booster.ops.deferred import Pending
from accuracy_booster.ops.moments import Merge, over_samples, update_running
from accuracy_booster.ops.pooled_conv import has_pooled_form, pooled_conv
from accuracy_booster.ops.scaled_conv import scaled_conv, scales_weights
from accuracy_booster.ops.synchronise import merged
from accuracy_booster.surgery.gate_warnings import warn_of_frozen_gate
from accuracy_booster.surgery.gated import gate_of
from accuracy_booster.surgery.hooks import is_read
from accuracy_booster.surgery.own_forwards import set_forward

Map = Any  # a tensor [N, C, H, W], or one that is Pending


class Fused(nn.Module):
    """What fused modules have in common. Each applies its gate itself, if it has one."""

    _applies_gate = True
    _gate_path: tuple[str, ...] = ()
    then = ""  # what follows, as `surgery.flow.Flow.then`
    around: tuple[nn.Module, ...] = ()  # the other modules whose output this module's is
    adder: tuple[nn.Module, ...] = ()  # the one that adds something to it
    ranks: tuple[int, ...] = ()  # how many dimensions a map has that takes the fast way

    def _gate(self) -> Gate | None:
        """The gate, if there is one and it is enabled."""
        block: Recalibrate | None = gate_of(self)
        return block[0] if block is not None and block.enabled else None  # type: ignore[return-value]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "forward":
            set_forward(self, value)
        else:
            super().__setattr__(name, value)

    def eval(self):
        warn_of_frozen_gate(self)
        return super().eval()

    def requires_grad_(self, requires_grad: bool = True):
        if not requires_grad:
            warn_of_frozen_gate(self)
        return super().requires_grad_(requires_grad)

    def _plain(self, x: torch.Tensor) -> torch.Tensor:
        """As before fusing."""
        y = super().forward(x)  # type: ignore[misc]
        block = gate_of(self)
        return y if block is None else block(y)

    def _waits(self, x: torch.Tensor) -> bool:
        """Whether to hand on a pending map: nobody but a sum (and a ReLU) will read it."""
        if not self.then or fused.traced(x) or is_read(self, *self.around):
            return False
        # what is recomputed for the gradient (torch.utils.checkpoint) has to give tensors
        trains = any(module.training for module in (self, *self.adder))
        return (torch.is_grad_enabled() or not trains) and fused.backward_pass() == -1

    def _given(
        self,
        z: torch.Tensor,
        mean: torch.Tensor | None,
        scale: torch.Tensor,
        shift: torch.Tensor | None,
        link: fused.Link | None,
        waits: bool,
    ) -> Map:
        """(z - mean) * scale + shift, now or when what follows is known."""
        if waits and self._waits(z):
            return Pending(z, mean, scale, shift, link, last=self.then)
        return fused.affine(z, mean, scale, shift, link=link)


class FusedNorm(Fused):
    """Batch norm and gate from one reduction: the descriptor is GAP(BN(z)) = a (mean_nc - mu) + b.

    BN(z) = a (z - mean_nc) + descriptor, so the gated map is (z - mean_nc) (a p) + descriptor p.
    """

    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    num_batches_tracked: torch.Tensor | None
    momentum: float | None
    track_running_stats: bool
    weight: Any
    bias: Any
    eps: float

    @leaf_module(waits=False)  # of a graph anybody may read any node
    def forward(self, x: torch.Tensor, waits: bool = True) -> Map:
        if backend.is_plain() or x.ndim not in self.ranks or x.numel() == 0:
            return self._plain(x)
        gate = self._gate()
        batch = self.training or self.running_mean is None
        mean_nc = link = None
        dtype = accumulation_dtype(x.dtype)
        if batch:
            link = fused.Link() if fused.needs_link(x) else None
            mean_nc, var_nc = fused.moments(x, link)
            mean, var = self._statistics(mean_nc, var_nc, x)
        else:
            assert self.running_mean is not None
            assert self.running_var is not None
            mean, var = self.running_mean.to(dtype), self.running_var.to(dtype)
            if gate is not None:
                mean_nc = x.mean(tuple(range(2, x.ndim)), dtype=dtype)
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        around = mean.new_zeros(()) if mean_nc is None else mean_nc
        descriptor = (around - mean) * scale
        if self.bias is not None:
            descriptor = descriptor + self.bias
        # [N, C] values: over the samples too, so that their gradients are sums over space alone
        scale, descriptor = scale.expand(len(x), -1), descriptor.expand(len(x), -1)
        if gate is not None:
            p = gate.weigh([descriptor])
            scale, descriptor = scale * p, descriptor * p
        return self._given(x, mean_nc, scale.to(dtype), descriptor.to(dtype), link, waits)

    def _statistics(
        self, mean_nc: torch.Tensor, var_nc: torch.Tensor, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch's mean[C] and variance[C]; running statistics move as PyTorch's do."""
        area = x.shape[2:].numel()
        if len(x) * area == 1:
            raise ValueError(
                "expected more than 1 value per channel when training, got input size "
                f"{list(x.shape)}"
            )
        found = over_samples(mean_nc, var_nc, area, self._merge())
        if self.training and self.track_running_stats:
            momentum = self.momentum
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
                if momentum is None:  # a cumulative average
                    momentum = 1.0 / float(self.num_batches_tracked)
            update_running(self.running_mean, self.running_var, found, momentum)
        return found[0], found[1]

    def _merge(self) -> Merge | None:
        """How the moments of several processes are put together, if not by the scope."""
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

    def _merge(self) -> Merge | None:
        distributed = torch.distributed
        if not (self.training and distributed.is_available() and distributed.is_initialized()):
            return None
        group = self.process_group
        return partial(merged, group=group) if distributed.get_world_size(group) > 1 else None


class FusedConv(Fused):
    """A convolution at whose output a gate stands: the descriptor is known before it runs."""

    @leaf_module(waits=False)
    def forward(self, x: torch.Tensor, waits: bool = True) -> Map:
        gate = self._gate()
        if gate is None or backend.is_plain() or x.ndim not in self.ranks:
            return self._plain(x)
        conv: Any = self
        if not has_pooled_form(conv):
            z = super(Fused, self).forward(x)  # type: ignore[misc]
            dtype = accumulation_dtype(z.dtype)
            p = gate.weigh([z.mean(tuple(range(2, z.ndim)), dtype=dtype)])
            return self._given(z, None, p.to(dtype), None, None, waits)
        with without_autocast(x):
            descriptor = pooled_conv(x, conv)
        p = gate.weigh([descriptor])
        if scales_weights(x, conv):
            return scaled_conv(x, conv, p)
        z = super(Fused, self).forward(x)  # type: ignore[misc]
        return self._given(z, None, p.to(accumulation_dtype(z.dtype)), None, None, waits)


class FusedConv1d(FusedConv, nn.Conv1d):
    ranks = (3,)


class FusedConv2d(FusedConv, nn.Conv2d):
    ranks = (4,)


class FusedConv3d(FusedConv, nn.Conv3d):
    ranks = (5,)
