"""How the norms of a detector's backbone get their statistics: frozen, synchronised, or normal.

A detector is trained on few images per device, often two. A batch norm of the base network still
sees N * H * W values per channel, which are enough. A gate's norm sees only N values. Of two values
one becomes +1 and the other -1, whatever they are, so such statistics are useless. There are three
ways to handle the norms:

frozen        The norms of the base and of the gates use their running statistics and do not update
              them, also in training mode. In the base, the weights and biases of the norms are
              frozen too, as in torchvision's FrozenBatchNorm2d and in Detectron. In a gate they
              are trained: a gate that starts as the identity has a factor of zero there, and could
              otherwise never change. This is the default for trained weights. The running
              statistics of new gates are 0 and 1, which are not those of their values.
              `gate_statistics.estimate_gate_norms` measures them first, on some images.
synchronised  The statistics are those of the images of all processes together. With eight processes
              of two images, a gate's norm sees sixteen values. In one process this is "normal".
normal        The statistics are those of each process, as torch does it. This is for networks that
              are trained from random weights, with as many images per device as fit.
"""

# N batch, C channels, H W space

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from accuracy_booster.ops.batch_norm import BatchNormMode
from accuracy_booster.ops.synchronising import moments_of_all_processes
from accuracy_booster.surgery.listing import attached

Norms = Literal["auto", "frozen", "synchronised", "normal"]
BatchNorm = nn.modules.batchnorm._BatchNorm


class HoldsNorms(nn.Module):
    """A part of a detector that keeps some of its norms on their running statistics.

    The frozen norms are known by name, and are put into eval mode before each pass. So they stay
    frozen after `train()`, in copies and pickles, and when another tool rebuilds the norms.

    A network can become such a part by a change of its class (`feature_maps.give_maps`), in which
    no `__init__` runs. So the attributes have defaults here, and `set_norms` sets them.

    Attributes:
        frozen_norms: the names of the frozen norms, those in gates included.
        all_frozen: whether all norms are frozen, those of gates that are attached later included.
        synchronised: whether the other norms use the images of all processes together.
    """

    frozen_norms: tuple[str, ...] = ()
    all_frozen: bool = False
    synchronised: bool = False

    def set_norms(self, *, frozen: tuple[str, ...], all_frozen: bool, synchronised: bool) -> None:
        """Set which norms are frozen and whether the others are synchronised."""
        self.frozen_norms = frozen
        self.all_frozen, self.synchronised = all_frozen, synchronised
        self.hold_norms()

    def hold_norms(self) -> None:
        """Put the frozen norms into eval mode. The gate on a frozen norm keeps its own mode."""
        held = (
            batch_norms(self).values()
            if self.all_frozen
            else map(self.get_submodule, self.frozen_norms)
        )
        for norm in held:
            if norm.training:
                norm.training = False  # not eval(), which would change the gate on it too

    def train(self, mode: bool = True) -> Any:
        """As in torch, but for the frozen norms."""
        super().train(mode)
        self.hold_norms()
        return self

    def norms_held(self) -> AbstractContextManager[Any]:
        """The context that a pass runs in."""
        self.hold_norms()
        group = torch.distributed
        several = group.is_available() and group.is_initialized() and group.get_world_size() > 1
        synchronise = self.training and self.synchronised and several
        return BatchNormMode(moments_of_all_processes) if synchronise else nullcontext()


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The batch norms with running statistics in a network, by name, those in gates included."""
    found = {n: m for n, m in module.named_modules() if isinstance(m, BatchNorm)}
    return {name: norm for name, norm in found.items() if norm.running_mean is not None}


def gates_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The batch norms with running statistics that are inside gates, by name."""
    inside = {id(m) for gate in attached(module).values() for m in gate.modules()}
    return {name: norm for name, norm in batch_norms(module).items() if id(norm) in inside}
