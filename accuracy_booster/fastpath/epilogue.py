"""What follows a fused or folded module, and when the module's last step joins it.

A residual block ends in `relu(branch + shortcut)`, and a gated branch ends in an affine map per
sample and channel. Computed apart these are three passes over the feature map. A fused or folded
module therefore may return a `DeferredMap`, which computes its affine map together with the sum and
the ReLU, in one pass.
"""

# N batch, C channels, H W space (or L, or D H W, or nothing: [N, C])

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from accuracy_booster.ops import affine, backend
from accuracy_booster.ops.deferred import DeferredMap
from accuracy_booster.surgery.hooks import is_read

FollowedBy = Literal["", "sum", "relu"]


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What follows the output of one module.

    Attributes:
        followed_by: "sum" if one sum with a map of the same shape reads the output and nothing else
            does; "relu" if, besides, one ReLU alone reads that sum; else "".
        aliases: the other modules whose output is the same map, such as a container that ends in
            the module, or an nn.Identity after it. A hook on one of them reads the map.
        sum_owner: the module in whose forward the sum runs; None if there is no sum.
        input_is_kept: whether the module alone reads its input, so that nothing changes it before
            the sum. Else the module's own computation cannot wait for the sum.
    """

    followed_by: FollowedBy = ""
    aliases: tuple[nn.Module, ...] = ()
    sum_owner: nn.Module | None = None
    input_is_kept: bool = False

    def defer(
        self,
        module: nn.Module,
        z: torch.Tensor,
        mean: torch.Tensor | None,
        scale: torch.Tensor,
        shift: torch.Tensor | None,
        handoff: affine.GradientHandoff | None = None,
    ) -> DeferredMap | None:
        """(z - mean) * scale + shift, to be computed with the sum and the ReLU that follow.

        Args:
            module: the module whose output it is.
            z: [N, C, H, W]; mean, scale and shift are [N, C] or None, as for `affine.affine`.
            handoff: as for `affine.affine`.

        Returns:
            A deferred map; None where the module must compute the map now, since something other
            than the sum may read it.
        """
        if not self.followed_by or not self.may_defer(module):
            return None
        return DeferredMap.affine(z, mean, scale, shift, handoff, followed_by=self.followed_by)

    def may_defer(self, module: nn.Module) -> bool:
        """Whether the output of a module can be computed at the sum that follows, now."""
        if backend.needs_torch_operations() or backend.is_unfused() or not self.followed_by:
            return False
        if is_read(module, *self.aliases):
            return False
        # A reentrant torch.utils.checkpoint needs tensors: in its first pass, which runs without
        # gradients, and in the second one, which runs inside the backward pass.
        trains = module.training or (self.sum_owner is not None and self.sum_owner.training)
        recomputes = affine.current_backward_pass() != -1 and not _in_nonreentrant_checkpoint()
        return not ((trains and not torch.is_grad_enabled()) or recomputes)


def _in_nonreentrant_checkpoint() -> bool:
    """Whether a `torch.utils.checkpoint` with use_reentrant=False runs, in either of its passes.

    The second pass must save the same tensors in the same order as the first one, so a map that was
    deferred there is deferred again. torch before 2.8 does not say whether such a checkpoint runs;
    there the answer is no.
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    hooks = None if top is None else top(True)
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"
