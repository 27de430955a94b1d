"""A convolution of a folded network that runs in the kernel of `ops.packed_conv`."""

# N batch, C channels in, K channels out, H W space, P Q space of the output

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.fastpath.epilogue import FollowedBy
from accuracy_booster.ops import backend, leaf_module, native_code
from accuracy_booster.ops.deferred import DeferredMap
from accuracy_booster.ops.packed_conv import SOURCE, Schedule, finish, output_shape, pack


class GateWeights(NamedTuple):
    """From what the weights p[N, K] of a gate are known, as `packed_conv.reference` takes it.

    Attributes:
        scale: p itself.
        gate: [3, K], for a gate that computes each weight from the mean of the same channel.
        means: [N, kh * kw * C], the mean of what each tap reads; for `gate` and a kernel larger
            than 1x1.
    """

    scale: torch.Tensor | None = None
    gate: torch.Tensor | None = None
    means: torch.Tensor | None = None


NO_GATE = GateWeights()


class PackedConv2d(nn.Conv2d):
    """A convolution that computes what `conv` does, with the same parameters.

    The kernel takes float32 maps on the CPU. Other maps, gradients, exporters and compilers other
    than `ab.compile_for_inference` get torch's own convolution. Weights are packed once, and again
    after they change, but for changes through `.data`, which torch does not count.

    Args:
        conv: for which `packed_conv.why_not` gives None. It does not change.
        schedule: in what form and order the kernel works.
    """

    packed: torch.Tensor

    def __init__(self, conv: nn.Conv2d, schedule: Schedule):
        nn.Module.__init__(self)
        for name, value in conv.__dict__.items():
            self.__dict__[name] = value.copy() if isinstance(value, dict) else value
        self.schedule, self.available = schedule, True
        self._pack()

    def _pack(self) -> None:
        self._packed_from = _identity(self.weight)
        packed = pack(self.weight, self.groups, self.schedule.outputs)
        self.register_buffer("packed", packed, persistent=False)

    def extra_repr(self) -> str:
        """As of a convolution, and that it is packed."""
        outputs = self.schedule.outputs
        form = f" in Winograd's form of {outputs}x{outputs} outputs" if outputs else ""
        return f"{super().extra_repr()}, packed{form}"

    @property
    def weighs_gates(self) -> bool:
        """Whether the kernel can compute the weights of a gate on its way, from the gate's rows."""
        return self.groups == 1 and not self.schedule.outputs

    def takes(self, x: torch.Tensor) -> bool:
        """Whether the kernel runs on this map, now."""
        if backend.is_unfused() or x.dtype != torch.float32 or x.device.type != "cpu":
            return False
        if not self.available or self._parameters.get("weight") is None:
            return False
        if self.packed.dtype != torch.float32 or x.ndim != 4 or torch.is_autocast_enabled("cpu"):
            return False
        if torch.compiler.is_compiling():
            if not backend.joins():
                return False
        elif backend.in_transform():
            return False
        wanted = x.requires_grad or self.weight.requires_grad
        return not (wanted and torch.is_grad_enabled())

    @leaf_module()
    def forward(
        self,
        x: torch.Tensor,
        weights: GateWeights = NO_GATE,
        shortcut: torch.Tensor | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> torch.Tensor:
        """clamp(conv(x) * p + shortcut, low, high), where p are the weights of a gate.

        Args:
            x: [N, C, H, W].
            weights: from what p is known; without them p is 1.
            shortcut: [N, K, P, Q].
            low, high: the least and the largest output.
        """
        if not self.takes(x):
            return self._in_steps(x, weights, shortcut, low, high)
        if not torch.compiler.is_compiling() and _identity(self.weight) != self._packed_from:
            self._pack()
        return torch.ops.accuracy_booster.packed_conv(
            *(x, self.packed, self.bias, self.out_channels, self.kernel_size, self.stride),
            *(self.padding, self.dilation, self.groups, *weights, shortcut, low, high),
            self.schedule.as_list(),
        )

    def onto(
        self,
        shortcut: torch.Tensor,
        x: torch.Tensor,
        weights: GateWeights = NO_GATE,
        low: float | None = None,
        high: float | None = None,
    ) -> torch.Tensor:
        """As `forward`, written where the shortcut is; x must be a map that the kernel takes."""
        torch.ops.accuracy_booster.packed_conv_onto(
            *(shortcut, x, self.packed, self.bias, self.out_channels, self.kernel_size),
            *(self.stride, self.padding, self.dilation, self.groups, *weights, low, high),
            self.schedule.as_list(),
        )
        return shortcut

    def deferred(
        self, x: torch.Tensor, weights: GateWeights, *, followed_by: FollowedBy
    ) -> DeferredMap:
        """conv(x) * p, to be computed with the sum and the ReLU that follow.

        Args:
            x: [N, C, H, W], which the kernel takes.
            weights: as for `forward`.
            followed_by: "sum" or "relu", as for `DeferredMap`.
        """

        def finish(residual: torch.Tensor | None, relu: bool) -> torch.Tensor:
            return self(x, weights, residual, 0.0 if relu else None)

        geometry = self.kernel_size, self.stride, self.padding, self.dilation
        shape = output_shape(x.shape, self.out_channels, *geometry)  # type: ignore[arg-type]
        return DeferredMap(finish, shape, (x, *weights), followed_by=followed_by or "sum")

    def _in_steps(
        self,
        x: torch.Tensor,
        weights: GateWeights,
        shortcut: torch.Tensor | None,
        low: float | None,
        high: float | None,
    ) -> torch.Tensor:
        """The same in torch's operations."""
        y = F.conv2d(
            *(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
        )
        return finish(y, weights.scale, weights.gate, shortcut, low, high)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._pack()

    def __getstate__(self) -> dict[str, Any]:
        """Without the packed weights, which are made anew."""
        state = dict(self.__dict__)
        state["_buffers"] = {k: v for k, v in self._buffers.items() if k != "packed"}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.available = native_code.load(SOURCE) is None  # maybe in a new process
        self._pack()


def _identity(weight: torch.Tensor) -> tuple[int, int, int]:
    """What changes with a weight: the object, its memory, how often it was changed in place.

    Nobody counts the changes of tensors that were made in inference mode.
    """
    version = 0 if weight.is_inference() else weight._version
    return id(weight), weight.data_ptr(), version
