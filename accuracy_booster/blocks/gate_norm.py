"""The batch norm inside a gate, and its warning of small batches."""

# N batch, C channels, H W space; d[N, C] is a descriptor

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from accuracy_booster.ops import leaf_module
from accuracy_booster.ops.moments import synchronised_processes

SMALL_BATCH = 16  # a gate's batch norm warns, once, of fewer values per channel


class SmallBatchWarning:
    """The warning that a gate's batch norm sees few values. A process gives it once."""

    def __init__(self) -> None:
        self.given = False

    def give(self, where: str, values: int) -> None:
        """Warn of the gate `where`, which sees so many values per channel."""
        if self.given or torch.compiler.is_compiling():
            return
        self.given = True
        warnings.warn(
            f"the batch norm of the gate {where or '(not attached)'} sees {values} values per "
            f"channel, fewer than {SMALL_BATCH}: its statistics are noisy; use larger batches, "
            "synchronised norms, or put the gates' norms in eval mode",
            stacklevel=3,
        )


small_batch_warning = SmallBatchWarning()


@contextmanager
def small_batches_allowed() -> Iterator[None]:
    """Within it no gate warns of a small batch. The warning can still be given afterwards."""
    before, small_batch_warning.given = small_batch_warning.given, True
    try:
        yield
    finally:
        small_batch_warning.given = before


class GateNorm(nn.modules.batchnorm._BatchNorm):
    """The batch norm inside a gate, on d[N, C] or on a map [N, C, H, W].

    On a descriptor it sees N values per channel, not N * H * W. In a batch of one they have no
    spread.

    Raises:
        ValueError: in training mode with one value per channel. The error names the layer.
    """

    where = ""  # the norm's name in the network, for messages; set when the gate is attached

    def __init__(self, channels: int, *, eps: float, momentum: float, init: str):
        super().__init__(channels, eps=eps, momentum=momentum)
        nn.init.constant_(self.weight, 0.0 if init == "zeros" else 1.0)

    def _check_input_dim(self, x: torch.Tensor) -> None:
        if not 2 <= x.ndim <= 5:
            raise ValueError(
                f"expected [N, C] or a map with 1 to 3 dimensions of space, got {list(x.shape)}"
            )

    @leaf_module()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = (
            x.numel() // x.shape[1] * synchronised_processes() if self.training else SMALL_BATCH
        )
        if values == 1:
            raise ValueError(
                f"the batch norm of the gate {self.where or '(not attached)'} got a batch of 1 in "
                "training mode, where it sees one value per channel and no spread; use batches of "
                "2 or more (drop_last=True drops a ragged last batch), or put this norm in eval "
                "mode to use its running statistics"
            )
        if 0 < values < SMALL_BATCH:
            small_batch_warning.give(self.where, values)
        return super().forward(x.to(self.weight.dtype) if x.ndim == 2 else x)
