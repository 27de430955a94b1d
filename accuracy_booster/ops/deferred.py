"""A feature map that is not computed yet: what is added to it and its ReLU join its one pass.

    y = Pending(...)        (z - mean) * scale + shift
    y = y + shortcut        still pending
    y = relu(y)             computed now: one pass

Whatever else is done with it computes it first and goes on with an ordinary tensor. It stands only
where a trace of the network has seen nothing but a sum and a ReLU (`surgery.flow`), but code that
asks before it computes (`torch.is_tensor(y)`) has to take the same way as it did, so it is a
`torch.Tensor`: one without memory. Code that looks for memory past torch's own functions gets an
error, and so does a gradient that would be lost (`_lost`).
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from accuracy_booster.ops.affine import Link, affine, traced

_ADD = {torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__}
_RELU = {torch.relu, torch.Tensor.relu, F.relu, torch.relu_, torch.Tensor.relu_, F.relu_}
_IN_PLACE = {torch.relu_, torch.Tensor.relu_, F.relu_}
# what is known before it is computed
_KNOWN = {
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim")),
    *(getattr(torch.Tensor, name).__get__ for name in ("requires_grad", "is_cuda", "layout")),
    *(torch.Tensor.size, torch.Tensor.dim, torch.Tensor.ndimension, torch.Tensor.numel),
    *(torch.Tensor.is_floating_point, torch.is_floating_point, torch.numel),
    *(torch.Tensor.is_complex, torch.is_complex),
}


class Pending(torch.Tensor):
    """`affine(z, mean, scale, shift, residual=..., relu=...)`, computed when it is needed.

    z is [N, C, H, W], the others [N, C] or None, as for `ops.fused.affine`. `last` is what it waits
    for: "sum", or "relu" for a sum and a ReLU. It has gradients if they were on when it was made.
    """

    _z: torch.Tensor
    _mean: torch.Tensor | None
    _scale: torch.Tensor
    _shift: torch.Tensor | None
    _link: Link | None
    _residual: torch.Tensor | None
    _last: str
    _with_grad: bool
    _value: torch.Tensor | None

    @staticmethod
    def __new__(
        cls,
        z: torch.Tensor,
        mean: torch.Tensor | None,
        scale: torch.Tensor,
        shift: torch.Tensor | None,
        link: Link | None = None,
        residual: torch.Tensor | None = None,
        *,
        last: str = "relu",
    ):
        with_grad = torch.is_grad_enabled()
        terms = (z, mean, scale, shift, residual)
        wanted = with_grad and any(t is not None and t.requires_grad for t in terms)
        self = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, z.shape, dtype=z.dtype, device=z.device, requires_grad=wanted
        )
        if wanted:
            with torch._C.DisableTorchFunctionSubclass():
                self.register_hook(_lost)
        self._z, self._mean, self._scale, self._shift = z, mean, scale, shift
        self._link, self._residual, self._last = link, residual, last
        self._with_grad, self._value = with_grad, None
        return self

    def compute(self, *, relu: bool = False) -> torch.Tensor:
        """The tensor, or its ReLU."""
        if relu and (self._value is not None or not self._same_mode()):
            return self.compute().relu()
        if self._value is not None:
            return self._value
        with torch.set_grad_enabled(self._with_grad):
            value = affine(
                *(self._z, self._mean, self._scale, self._shift),
                residual=self._residual,
                relu=relu,
                link=self._link,
            )
        if not relu:
            self._become(value)
        return value

    def _same_mode(self) -> bool:
        return self._with_grad == torch.is_grad_enabled()

    def _become(self, value: torch.Tensor) -> None:
        self._value = value
        self._residual = None

    def _plus(self, other: Any) -> Pending | torch.Tensor:
        """The sum, pending still if `other` is a map like this one."""
        fits = (
            isinstance(other, torch.Tensor)
            and not isinstance(other, Pending)
            and other.shape == self._z.shape
            and other.dtype == self._z.dtype
            and other.device == self._z.device
            and self._same_mode()
            and not traced(other)  # the compiler joins the sum by itself
        )
        if not fits or self._residual is not None or self._value is not None:
            return self.compute() + (other.compute() if isinstance(other, Pending) else other)
        total = Pending(self._z, self._mean, self._scale, self._shift, self._link, other)
        return total if self._last == "relu" else total.compute()

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
        if isinstance(total, Pending):
            self._residual = total._residual
        else:
            self._become(total)
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _KNOWN and args and isinstance(args[0], Pending) and args[0]._value is None:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _ADD and len(args) == 2 and not kwargs:
            a, b = args
            return a._plus(b) if isinstance(a, Pending) else b._plus(a)
        if func in _RELU and args and isinstance(args[0], Pending):
            in_place = func in _IN_PLACE or kwargs.get("inplace") or args[1:] == (True,)
            return args[0]._relu(bool(in_place))
        return func(*_computed(args), **_computed(kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """What comes here has passed torch's functions by, as autograd's own code does."""
        return func(*_computed(args), **_computed(kwargs or {}))


def _lost(grad: torch.Tensor) -> None:
    raise RuntimeError(
        "a gradient ends in a feature map that a fused norm or convolution had not computed yet: "
        "an autograd.Function got the map itself; give it y.clone(), or take the block out with "
        "ab.unfuse(model)"
    )


def _computed(tree: Any) -> Any:
    if isinstance(tree, Pending):
        return tree.compute()
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(_computed, tree))
    if isinstance(tree, dict):
        return {key: _computed(value) for key, value in tree.items()}
    return tree
