"""Feature maps that are computed only when something other than the fused sum reads them.

    y = DeferredMap.affine(z, mean, scale, shift)    nothing yet: it is (z - mean) * scale + shift
    y = y + shortcut                                 still nothing
    y = relu(y)                                      computed now, in one pass over memory

The sum and the ReLU join the map's own pass. Any other operation computes the map first, and goes
on with an ordinary tensor. Fused and folded layers return such a map only where a trace of the
network saw nothing but a sum, or a sum and a ReLU, read the layer's output. The network's code may
also look at the output without computing with it, as `torch.is_tensor(y)` does, and must decide as
it did before. So a deferred map is a `torch.Tensor`, one without memory. Code that reads a tensor's
memory without going through torch's functions gets an error, and so does a backward pass whose
gradient would be lost (`_refuse_gradient`).
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F

from accuracy_booster.ops.affine import GradientHandoff, affine
from accuracy_booster.ops.backend import needs_torch_operations

_ADD = {torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__}
_RELU = {torch.relu, torch.Tensor.relu, F.relu, torch.relu_, torch.Tensor.relu_, F.relu_}
_IN_PLACE = {torch.relu_, torch.Tensor.relu_, F.relu_}
# what can be answered without computing the map
_KNOWN = {
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim")),
    *(getattr(torch.Tensor, name).__get__ for name in ("requires_grad", "is_cuda", "layout")),
    *(torch.Tensor.size, torch.Tensor.dim, torch.Tensor.ndimension, torch.Tensor.numel),
    *(torch.Tensor.is_floating_point, torch.is_floating_point, torch.numel),
    *(torch.Tensor.is_complex, torch.is_complex),
}


class DeferredMap(torch.Tensor):
    """A feature map that is not computed yet.

    It has gradients if they were enabled when it was made, and one of its inputs has one.

    Args:
        finish: (residual, relu) -> the map plus the residual (a tensor, or None for nothing), or
            its ReLU.
        shape: [N, C, H, W] of the map, as of the residual.
        inputs: the tensors that `finish` reads; the first gives the map's type and device.
        residual: what is added.
        followed_by: "sum" if the map is computed as soon as something is added to it; "relu" if it
            is computed at a ReLU after that.
    """

    _finish: Callable[[torch.Tensor | None, bool], torch.Tensor]
    _inputs: tuple[torch.Tensor | None, ...]
    _residual: torch.Tensor | None
    _followed_by: Literal["sum", "relu"]
    _with_grad: bool
    _value: torch.Tensor | None  # the computed map

    @staticmethod
    def __new__(
        cls,
        finish: Callable[[torch.Tensor | None, bool], torch.Tensor],
        shape: Sequence[int],
        inputs: tuple[torch.Tensor | None, ...],
        residual: torch.Tensor | None = None,
        *,
        followed_by: Literal["sum", "relu"] = "relu",
    ) -> DeferredMap:
        like = inputs[0]
        assert like is not None
        with_grad = torch.is_grad_enabled()
        wanted = with_grad and any(t is not None and t.requires_grad for t in (*inputs, residual))
        self = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, dtype=like.dtype, device=like.device, requires_grad=wanted
        )
        if wanted:
            with torch._C.DisableTorchFunctionSubclass():
                self.register_hook(_refuse_gradient)
        self._finish, self._inputs = finish, inputs
        self._residual, self._followed_by = residual, followed_by
        self._with_grad, self._value = with_grad, None
        return self

    @classmethod
    def affine(
        cls,
        z: torch.Tensor,
        mean: torch.Tensor | None,
        scale: torch.Tensor,
        shift: torch.Tensor | None,
        handoff: GradientHandoff | None = None,
        *,
        followed_by: Literal["sum", "relu"] = "relu",
    ) -> DeferredMap:
        """The map (z - mean) * scale + shift.

        Args:
            z: [N, C, H, W]; mean, scale and shift are [N, C]. `affine.affine` says what they and
                handoff mean.
            followed_by: as for the class.
        """

        def finish(residual: torch.Tensor | None, relu: bool) -> torch.Tensor:
            terms = {"residual": residual, "relu": relu, "handoff": handoff}
            return affine(z, mean, scale, shift, **terms)  # type: ignore[arg-type]

        return cls(finish, z.shape, (z, mean, scale, shift), followed_by=followed_by)

    def compute(self, *, relu: bool = False) -> torch.Tensor:
        """The ordinary tensor, or with `relu` its ReLU; the tensor is kept, its ReLU is not."""
        if relu and (self._value is not None or not self._same_mode()):
            return self.compute().relu()
        if self._value is not None:
            return self._value
        with torch.set_grad_enabled(self._with_grad):
            value = self._finish(self._residual, relu)
        if not relu:
            self._become(value)
        return value

    def _same_mode(self) -> bool:
        """Whether gradients are enabled now as they were when the map was made."""
        return self._with_grad == torch.is_grad_enabled()

    def _shape(self) -> torch.Size:
        with torch._C.DisableTorchFunctionSubclass():
            return self.shape

    def _become(self, value: torch.Tensor) -> None:
        """From now on this map is `value`."""
        self._value = value
        self._residual = None

    def _plus(self, other: Any) -> DeferredMap | torch.Tensor:
        """The sum; it is deferred if `other` is a tensor like this map, and the first added."""
        fits = (
            isinstance(other, torch.Tensor)
            and not isinstance(other, DeferredMap)
            and other.shape == self._shape()
            and other.dtype == self._inputs[0].dtype  # type: ignore[union-attr]
            and other.device == self._inputs[0].device  # type: ignore[union-attr]
            and self._same_mode()
            and not needs_torch_operations()  # a compiler joins the sum by itself
        )
        if not fits or self._residual is not None or self._value is not None:
            return self.compute() + (other.compute() if isinstance(other, DeferredMap) else other)
        total = DeferredMap(self._finish, self._shape(), self._inputs, other)
        return total if self._followed_by == "relu" else total.compute()

    def _relu(self, in_place: bool) -> torch.Tensor:
        value = self.compute(relu=True)
        if in_place:
            self._become(value)
        return value

    def __add__(self, other: Any) -> Any:
        return self._plus(other)

    def __radd__(self, other: Any) -> Any:
        return self._plus(other)

    def __iadd__(self, other: Any) -> Any:
        total = self._plus(other)
        if isinstance(total, DeferredMap):
            self._residual = total._residual
        else:
            self._become(total)
        return self

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _KNOWN and args and isinstance(args[0], DeferredMap) and args[0]._value is None:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _ADD and len(args) == 2 and not kwargs:
            a, b = args
            return a._plus(b) if isinstance(a, DeferredMap) else b._plus(a)
        if func in _RELU and args and isinstance(args[0], DeferredMap):
            in_place = func in _IN_PLACE or kwargs.get("inplace") or args[1:] == (True,)
            return args[0]._relu(bool(in_place))
        return func(*_computed(args), **_computed(kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """For operators that were not called through torch's functions, as by autograd itself."""
        return func(*_computed(args), **_computed(kwargs or {}))


def _refuse_gradient(grad: torch.Tensor) -> None:
    """A hook on the gradient of a deferred map itself.

    The map has no graph of its own: its value has one. A gradient of the map would go nowhere.
    """
    raise RuntimeError(
        "a gradient ends in a feature map that a fused norm or convolution had not computed yet: "
        "an autograd.Function got the map itself; give it y.clone(), or take the block out with "
        "ab.unfuse(model)"
    )


def _computed(tree: Any) -> Any:
    """The same nested lists, tuples and dictionaries, with the deferred maps in them computed."""
    if isinstance(tree, DeferredMap):
        return tree.compute()
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(_computed, tree))
    if isinstance(tree, dict):
        return {key: _computed(value) for key, value in tree.items()}
    return tree
