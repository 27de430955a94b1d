"""Count the arithmetic of a pass: torch's own flop formulas, and what they leave out.

torch's formulas (`torch.utils.flop_counter.flop_registry`) know convolutions, matrix products and
attention; its counter passes over everything else in silence. Here norms, activations, sums,
scalings and pooling count too, and an operator that nobody knows is reported.
"""

# N batch, C channels, H W space

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from accuracy_booster.analysis.unfused import unfused
from accuracy_booster.blocks import Bottleneck, Dense

# kind of arithmetic: floating point operations of one of what it counts
KINDS: dict[str, int] = {
    "mac": 2,  # a multiply-add of a convolution, dense layer or matrix product
    "bias": 1,  # an element that a layer's bias is added to
    "norm": 2,  # an element that a norm in eval mode shifts and scales
    "sum": 1,  # an element of a sum of two tensors
    "scale": 1,  # an element of a product of two tensors, or with a number
    "activation": 1,  # an element of any other function of single elements
    "pool": 1,  # an element read by a window or a reduction, a tap of an interpolation
    "softmax": 3,  # an element: exponential, sum, division
}

SUMS = {"add", "sub", "rsub"}
SCALES = {"mul", "div"}
NORMS = {
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("_batch_norm_no_update", "_batch_norm_with_update", "cudnn_batch_norm", "batch_norm"),
    *("miopen_batch_norm", "native_layer_norm", "native_group_norm", "_fused_rms_norm"),
}
STATISTICS = {"native_layer_norm", "native_group_norm", "_fused_rms_norm"}  # of the pass itself
ACTIVATIONS = {"hardswish", "prelu", "_prelu_kernel", "glu", "log_sigmoid_forward", "floor_divide"}
SOFTMAX = {"_softmax", "_safe_softmax", "_log_softmax"}
REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "min", "var", "var_mean", "std", "prod", "norm"),
    *("linalg_vector_norm", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "logsumexp", "all"),
    *("_adaptive_avg_pool1d", "_adaptive_avg_pool3d", "adaptive_max_pool3d", "any", "cumsum"),
}
WINDOWS = {  # the kernel is the second argument
    *("avg_pool2d", "max_pool2d_with_indices", "avg_pool3d", "max_pool3d_with_indices"),
}
TAPS = {"upsample_linear1d": 2, "upsample_bilinear2d": 4, "upsample_trilinear3d": 8}
TAPS |= {"upsample_bicubic2d": 16, "_upsample_bilinear2d_aa": 4, "_upsample_bicubic2d_aa": 16}
TAPS |= {"col2im": 1, "grid_sampler_2d": 4}
FREE = {  # they move data or make it, without arithmetic
    *("clone", "copy", "_to_copy", "cat", "stack", "index", "index_select", "gather", "embedding"),
    *("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "flip"),
    *("roll", "repeat", "fill", "zero", "masked_fill", "where", "im2col", "unsafe_split"),
    *("_unsafe_view", "_reshape_alias", "as_strided", "resize", "set", "detach", "alias"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "lift"),
    *("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "native_dropout"),
    *("_local_scalar_dense", "_assert_async", "view_as_real", "view_as_complex", "unsqueeze"),
    *("squeeze", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like"),
    *("empty_like", "full_like", "_pin_memory", "index_put", "slice_scatter", "select_scatter"),
    *("bernoulli", "normal", "uniform", "random", "rand_like", "randn_like", "exponential"),
    *("upsample_nearest3d", "tril", "triu", "_conj", "scalar_tensor", "unfold", "contiguous"),
}


@dataclass
class Count:
    """Arithmetic on feature maps [N, C, H, W] and on vectors and sequences, by kind.

    `outputs` are the elements that convolutions, dense layers and matrix products gave;
    `compressed` those by which the paper's Table 1 has fewer, since it gives both layers of an SE
    block C / r outputs.
    """

    maps: Counter[str] = field(default_factory=Counter)
    vectors: Counter[str] = field(default_factory=Counter)
    outputs: int = 0
    compressed: int = 0

    @property
    def macs(self) -> int:
        return self.maps["mac"] + self.vectors["mac"]

    @property
    def flops(self) -> int:
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
    """Counts while it is entered; `total`, what ran in each of `watched`, and `uncounted`."""

    supports_higher_order_operators = True

    def __init__(self, watched: Mapping[str, nn.Module]):
        super().__init__()
        self.total = Count()
        self.watched = watched
        self.of = {name: Count() for name in watched}
        self.shapes: dict[str, tuple[int, ...]] = {}  # of what the watched modules get
        self.uncounted: Counter[str] = Counter()
        self._in: list[str] = []  # the watched modules that run now
        self._in_dense = 0  # layers whose products are multiply-adds
        self._scopes: list[ExitStack] = []

    def __enter__(self):
        self._scopes.append(ExitStack())
        self._scopes[-1].enter_context(unfused())
        return super().__enter__()

    def __exit__(self, *error: Any):
        super().__exit__(*error)
        self._scopes.pop().close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.OpOverload) and not _knows(func):
            with self:  # what it is made of runs under this mode
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        results = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if _is_tensor(t)]
        counted = _arithmetic(func, args, kwargs, out, results)
        if counted is None:
            self.uncounted[str(getattr(func, "_overloadpacket", func)).replace(".", "::", 1)] += 1
            return
        outputs = results[0].numel() if "mac" in counted else 0
        outputs += counted.pop("scores", 0)
        if self._in_dense and not outputs and results:  # one weight per channel
            counted = {{"scale": "mac", "sum": "bias"}.get(k, k): v for k, v in counted.items()}
            outputs = counted.get("mac", 0)
        is_map = bool(results) and results[0].ndim >= 4
        for count in (self.total, *(self.of[name] for name in self._in)):
            (count.maps if is_map else count.vectors).update(counted)
            count.outputs += outputs

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Hooks that tell which of the watched modules and dense layers run."""

        def enter(name: str):
            def note(module: nn.Module, args: tuple[torch.Tensor]) -> None:
                self._in.append(name)
                self.shapes[name] = tuple(args[0].shape)

            return note

        def leave(module: nn.Module, args: tuple, out: Any) -> None:
            self._in.pop()

        def dense(step: int):
            def change(*_: Any) -> None:
                self._in_dense += step

            return change

        def bottleneck(module: Bottleneck, args: tuple, out: torch.Tensor) -> None:
            hidden, channels = module.reduce.weight.shape[0], module.expand.weight.shape[0]
            for count in (self.total, *(self.of[name] for name in self._in)):
                count.compressed += out.numel() // channels * (channels - hidden)

        with ExitStack() as stack:

            def hook(module: nn.Module, before: Any, after: Any) -> None:
                if before:
                    stack.callback(module.register_forward_pre_hook(before, prepend=True).remove)
                stack.callback(module.register_forward_hook(after).remove)

            for name, module in self.watched.items():
                hook(module, enter(name), leave)
            for module in model.modules():
                if isinstance(module, Dense) and module.depthwise:
                    hook(module, dense(1), dense(-1))
                elif isinstance(module, Bottleneck):
                    hook(module, None, bottleneck)
            yield


# multiply-adds of products that torch's formulas leave out, from their arguments
PRODUCTS: dict[str, Callable[..., int]] = {
    "mv": lambda a, b: a.numel(),
    "dot": lambda a, b: a.numel(),
    "addmv": lambda total, a, b: a.numel(),
    "addbmm": lambda total, a, b: a.numel() * b.shape[2],
}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _name(func: Any) -> str:
    """An operator's name without its namespace, overload and the underscore of in-place ones."""
    name = func._schema.name
    return name.removeprefix("aten::").rstrip("_") if name.startswith("aten::") else name


def _knows(func: Any) -> bool:
    if func._overloadpacket in flop_registry:
        return True
    if _name(func) in PRODUCTS:
        return True
    return _name(func) in NORMS | SOFTMAX | ACTIVATIONS | REDUCTIONS | WINDOWS | FREE | set(TAPS)


def _arithmetic(
    func: Any, args: tuple, kwargs: dict[str, Any], out: Any, results: list[torch.Tensor]
) -> dict[str, int] | None:
    """What an operator computes, by kind; None for one that nobody knows."""
    packet = getattr(func, "_overloadpacket", func)
    if packet in flop_registry:
        flops = flop_registry[packet](*args, **kwargs, out_val=out)
        if "scaled_dot_product" in _name(func):
            return {"mac": flops // 2, **_attention(func, args, kwargs)}
        return {"mac": flops // 2, "bias": results[0].numel() if _has_bias(func, args) else 0}
    if not isinstance(func, torch._ops.OpOverload):
        return None
    name = _name(func)
    if name in FREE or func.is_view or "_assert" in name:
        return {}
    inputs = [t for t in _flat((*args, *kwargs.values())) if _is_tensor(t)]
    if not inputs or not results:
        return {}  # a constant, a size, a random number
    elements, read = results[0].numel(), inputs[0].numel()
    if name in PRODUCTS:
        return {"mac": PRODUCTS[name](*args)}
    if not results[0].is_floating_point() and not inputs[0].is_floating_point():
        return {}  # indices and masks
    if name in NORMS:
        return {"norm": elements, "pool": elements if name in STATISTICS else 0}
    if name in SOFTMAX:
        return {"softmax": elements}
    if name in WINDOWS:
        return {"pool": elements * math.prod(_window(args, inputs[0]))}
    if name in TAPS:
        return {"pool": elements * TAPS[name]}
    if name in REDUCTIONS:
        return {"pool": read}
    if name in SUMS:
        return {"sum": elements}
    if name in SCALES:
        return {"scale": elements}
    if name in ("addcmul", "addcdiv", "lerp"):
        return {"scale": elements, "sum": elements}
    if name in ACTIVATIONS or torch.Tag.pointwise in func.tags:
        return {"activation": elements}
    return None


def _attention(func: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, int]:
    """What fused attention does beside its products, as the unfused one: it has scores too."""
    query, key = args[:2]
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args)) | kwargs  # noqa: B905 - not all are given
    masked = given.get("is_causal", False) or any(map(_is_tensor, list(given.values())[3:]))
    scaled = query.numel() + key.numel()  # both by the root of the scale
    return {"softmax": scores, "scale": scaled, "sum": scores * masked, "scores": scores}


def _flat(items: Any) -> Iterator[Any]:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item


def _has_bias(func: Any, args: tuple) -> bool:
    names = [a.name for a in func._schema.arguments] if hasattr(func, "_schema") else []
    if "bias" in names:
        return len(args) > names.index("bias") and args[names.index("bias")] is not None
    return _name(func) in ("addmm", "baddbmm")


def _window(args: tuple, x: torch.Tensor) -> list[int]:
    kernel = args[1]
    dimensions = x.ndim - 2
    return list(kernel) * (dimensions if len(kernel) == 1 else 1)
