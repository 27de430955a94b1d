"""What each operator of torch computes: which kind of arithmetic, and how much of it.

Multiply-adds come from torch's own formulas (`torch.utils.flop_counter.flop_registry`), which know
convolutions, matrix products and attention. The tables here add norms, activations, sums, scalings
and pooling. `counter` applies them to every operator that a pass runs.
"""

# N batch, C channels, H W space

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

# kinds of arithmetic, and the floating point operations in one unit of each
KINDS: dict[str, int] = {
    "mac": 2,  # a multiply-add of a convolution, dense layer or matrix product
    "bias": 1,  # an element that a layer's bias is added to
    "norm": 2,  # an element that a norm in eval mode shifts and scales
    "sum": 1,  # an element of a sum of two tensors
    "scale": 1,  # an element of a product of two tensors, or with a number
    "activation": 1,  # an element of any other pointwise function
    "pool": 1,  # an element that a window or a reduction reads, or a tap of an interpolation
    "softmax": 3,  # an element, with an exponential, a sum and a division
}

# operators by name, without overload and namespace
SUMS = {"add", "sub", "rsub"}
SCALES = {"mul", "div"}
NORMS = {
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("_batch_norm_no_update", "_batch_norm_with_update", "cudnn_batch_norm", "batch_norm"),
    *("miopen_batch_norm", "native_layer_norm", "native_group_norm", "_fused_rms_norm"),
}
STATISTICS = {"native_layer_norm", "native_group_norm", "_fused_rms_norm"}  # they reduce
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
TAPS |= {"col2im": 1, "grid_sampler_2d": 4, "grid_sampler_3d": 8}
FREE = {  # they move or create data, without arithmetic
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
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact3d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad3d", "max_unpool2d", "max_unpool3d"),
    *("upsample_nearest3d", "tril", "triu", "_conj", "scalar_tensor", "unfold", "contiguous"),
}

# multiply-adds of matrix products that torch's formulas leave out, from the operator's arguments
PRODUCTS: dict[str, Callable[..., int]] = {
    "mv": lambda a, b: a.numel(),
    "dot": lambda a, b: a.numel(),
    "addmv": lambda total, a, b: a.numel(),
    "addbmm": lambda total, a, b: a.numel() * b.shape[2],
}


def is_known(func: torch._ops.OpOverload) -> bool:
    """Whether `arithmetic` can count this operator itself, not only the operators it is made of."""
    if func._overloadpacket in flop_registry:
        return True
    name = _name(func)
    tables = (PRODUCTS, NORMS, SOFTMAX, ACTIVATIONS, REDUCTIONS, WINDOWS, FREE, TAPS)
    return any(name in table for table in tables)


def arithmetic(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> dict[str, int] | None:
    """How much of each kind of arithmetic one call of an operator does.

    Args:
        func, args, kwargs: the operator and its arguments.
        out: what it returned.

    Returns:
        {kind of `KINDS`: how many}. An attention operator adds "scores", the elements of its
        attention matrix. None for an operator that nothing here knows how to count.
    """
    results = tensors_in(out)
    packet = getattr(func, "_overloadpacket", func)
    if packet in flop_registry:
        macs = flop_registry[packet](*args, **kwargs, out_val=out) // 2
        if "scaled_dot_product" in _name(func):
            return {"mac": macs, **_attention(func, args, kwargs)}
        return {"mac": macs, "bias": results[0].numel() if _has_bias(func, args) else 0}
    if not isinstance(func, torch._ops.OpOverload):
        return None
    name = _name(func)
    if name in FREE or func.is_view or "_assert" in name:
        return {}
    inputs = [t for t in _flat((*args, *kwargs.values())) if isinstance(t, torch.Tensor)]
    if not inputs or not results:
        return {}  # it makes a constant, a size or random numbers
    if name in PRODUCTS:
        return {"mac": PRODUCTS[name](*args)}
    if not results[0].is_floating_point() and not inputs[0].is_floating_point():
        return {}  # it computes indices or masks
    return _elementwise(func, name, args, inputs[0], results[0])


def _elementwise(
    func: torch._ops.OpOverload,
    name: str,
    args: tuple[Any, ...],
    read: torch.Tensor,
    result: torch.Tensor,
) -> dict[str, int] | None:
    """The arithmetic of an operator that is no matrix product, from its first input and result."""
    elements = result.numel()
    if name in NORMS:
        return {"norm": elements, "pool": elements if name in STATISTICS else 0}
    if name in SOFTMAX:
        return {"softmax": elements}
    if name in WINDOWS:
        return {"pool": elements * math.prod(_window(args, read))}
    if name in TAPS:
        return {"pool": elements * TAPS[name]}
    if name in REDUCTIONS:
        return {"pool": read.numel()}
    if name in SUMS:
        return {"sum": elements}
    if name in SCALES:
        return {"scale": elements}
    if name in ("addcmul", "addcdiv", "lerp"):
        return {"scale": elements, "sum": elements}
    if name in ACTIVATIONS or torch.Tag.pointwise in func.tags:
        return {"activation": elements}
    return None


def tensors_in(out: Any) -> list[torch.Tensor]:
    """The tensors that an operator returned."""
    every = out if isinstance(out, (tuple, list)) else [out]
    return [one for one in every if isinstance(one, torch.Tensor)]


def _name(func: Any) -> str:
    """An operator's name without namespace and overload; `add_` is "add" too."""
    name: str = func._schema.name
    return name.removeprefix("aten::").rstrip("_") if name.startswith("aten::") else name


def _attention(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, int]:
    """What a fused attention operator does beside its products, as attention in steps does."""
    query, key = args[:2]
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args)) | kwargs  # noqa: B905 - not all are given
    tensors = [isinstance(value, torch.Tensor) for value in list(given.values())[3:]]
    is_masked = given.get("is_causal", False) or any(tensors)
    scaled = query.numel() + key.numel()  # both are multiplied by the root of the scale
    return {"softmax": scores, "scale": scaled, "sum": scores * is_masked, "scores": scores}


def _flat(items: Any) -> Iterator[Any]:
    """The items of nested lists and tuples."""
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item


def _has_bias(func: Any, args: tuple[Any, ...]) -> bool:
    names = [a.name for a in func._schema.arguments] if hasattr(func, "_schema") else []
    if "bias" in names:
        return len(args) > names.index("bias") and args[names.index("bias")] is not None
    return _name(func) in ("addmm", "baddbmm")


def _window(args: tuple[Any, ...], x: torch.Tensor) -> list[int]:
    """The sides of a pooling window, one for each dimension of space."""
    kernel = args[1]
    return list(kernel) * (x.ndim - 2 if len(kernel) == 1 else 1)
