"""Count the arithmetic of a pass, operator by operator, for `ab.complexity`.

torch's own counter passes over operators that it does not know in silence. This one reports them.
"""

# N batch, C channels, H W space

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from accuracy_booster.analysis.operators import KINDS, arithmetic, is_known, tensors_in
from accuracy_booster.analysis.unfused_layers import layers_unfused
from accuracy_booster.blocks import Bottleneck, Dense


def _norm_without_values(func: Any, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...] | None:
    """What batch norm gives on the meta device, where there are only shapes; None for the rest.

    torch finds these shapes by its formula in Python, which took a third of the time of counting.
    """
    if func is not torch.ops.aten.native_batch_norm.default or not args[0].is_meta:
        return None
    x, training = args[0], args[5]
    statistics = x.new_empty(x.shape[1] if training else 0)
    return torch.empty_like(x), statistics, torch.empty_like(statistics)


@dataclass
class Count:
    """Arithmetic by kind (`operators.KINDS`).

    Attributes:
        maps: of operators whose result is a feature map [N, C, H, W].
        vectors: of all other operators, whose results are vectors or sequences.
        outputs: elements that convolutions, dense layers and matrix products gave.
        compressed: by how many elements the paper's Table 1 counts fewer outputs. It takes both
            layers of an SE block to give C / r outputs, where the second gives C.
    """

    maps: Counter[str] = field(default_factory=Counter)
    vectors: Counter[str] = field(default_factory=Counter)
    outputs: int = 0
    compressed: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.maps["mac"] + self.vectors["mac"]

    @property
    def flops(self) -> int:
        """Floating point operations of all kinds."""
        return sum(KINDS[kind] * (self.maps[kind] + self.vectors[kind]) for kind in KINDS)

    def combine(self, other: Count, a: int, b: int) -> Count:
        """a * self + b * other."""

        def mix(x: Counter[str], y: Counter[str]) -> Counter[str]:
            return Counter({kind: a * x[kind] + b * y[kind] for kind in KINDS})

        return Count(
            mix(self.maps, other.maps),
            mix(self.vectors, other.vectors),
            a * self.outputs + b * other.outputs,
            a * self.compressed + b * other.compressed,
        )


class OperationCounter(TorchDispatchMode):
    """Counts the arithmetic of what runs while it is entered.

    Attributes:
        total: of everything that ran.
        of: {name: of what ran inside that watched module}.
        shapes: {name: the shape of the watched module's input}.
        uncounted: operators that cannot be counted, and how often they ran.
    """

    supports_higher_order_operators = True

    def __init__(self, watched: Mapping[str, nn.Module], *, map_dims: int = 4):
        """Make a counter.

        Args:
            watched: modules by name, whose arithmetic is also counted one by one. They are known
                to run only within `watching`.
            map_dims: results with at least so many dimensions are feature maps.
        """
        super().__init__()
        self.map_dims = map_dims
        self.total = Count()
        self.watched = watched
        self.of = {name: Count() for name in watched}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.uncounted: Counter[str] = Counter()
        self._running: list[str] = []  # the watched modules that run now
        self._in_depthwise = 0  # how many depthwise `Dense` layers run now
        self._scopes: list[ExitStack] = []

    def __enter__(self) -> OperationCounter:
        self._scopes.append(ExitStack())
        if len(self._scopes) == 1:  # `__torch_dispatch__` enters it again to decompose operators
            self._scopes[0].enter_context(layers_unfused())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._scopes.pop().close()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.OpOverload) and not is_known(func):
            with self:  # the operators that it is made of are counted instead
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = _norm_without_values(func, args)
        out = func(*args, **kwargs) if out is None else out
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Add the arithmetic of one call."""
        counted = arithmetic(func, args, kwargs, out)
        if counted is None:
            self.uncounted[str(getattr(func, "_overloadpacket", func)).replace(".", "::", 1)] += 1
            return
        results = tensors_in(out)
        outputs = results[0].numel() if "mac" in counted else 0
        outputs += counted.pop("scores", 0)
        if self._in_depthwise and not outputs and results:
            # a depthwise layer on [N, C] is computed as a product and a sum of vectors
            counted = {{"scale": "mac", "sum": "bias"}.get(k, k): n for k, n in counted.items()}
            outputs = counted.get("mac", 0)
        is_map = bool(results) and results[0].ndim >= self.map_dims
        for count in (self.total, *(self.of[name] for name in self._running)):
            (count.maps if is_map else count.vectors).update(counted)
            count.outputs += outputs

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Within it, hooks tell which of the watched modules and depthwise layers run."""
        with ExitStack() as stack:

            def hook(module: nn.Module, before: Any, after: Any) -> None:
                if before:
                    stack.callback(module.register_forward_pre_hook(before, prepend=True).remove)
                stack.callback(module.register_forward_hook(after).remove)

            for name, module in self.watched.items():
                hook(module, partial(self._enter, name), self._leave)
            for module in model.modules():
                if isinstance(module, Dense) and module.depthwise:
                    hook(module, self._enter_depthwise, self._leave_depthwise)
                elif isinstance(module, Bottleneck):
                    hook(module, None, self._note_compressed)
            yield

    # the hooks; torch passes (module, args) before a pass and (module, args, out) after it

    def _enter(self, name: str, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._running.append(name)
        self.shapes[name] = tuple(args[0].shape)

    def _leave(self, *_: Any) -> None:
        self._running.pop()

    def _enter_depthwise(self, *_: Any) -> None:
        self._in_depthwise += 1

    def _leave_depthwise(self, *_: Any) -> None:
        self._in_depthwise -= 1

    def _note_compressed(self, module: Bottleneck, args: Any, out: torch.Tensor) -> None:
        hidden, channels = module.reduce.weight.shape[0], module.expand.weight.shape[0]
        for count in (self.total, *(self.of[name] for name in self._running)):
            count.compressed += out.numel() // channels * (channels - hidden)
