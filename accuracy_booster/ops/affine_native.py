"""`affine` and `norm_terms` on the CPU: calls the C++ of affine_native.cpp and norm_native.cpp.

The functions are those of `affine_reference`, which defines what they compute and takes what the
C++ cannot: it takes float32 and float64, and maps that are all of one type.
"""

# N batch, C channels, H W space (or L, or D H W); values per sample and channel are [N, C]

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from accuracy_booster.ops import affine_reference
from accuracy_booster.ops.map_layouts import like_map, memory_format, sample_values
from accuracy_booster.ops.native import library

DTYPES = {torch.float32: "float32", torch.float64: "float64"}
# The arguments of each function: p a pointer or None, d a double, i an int, N a size. Those over
# maps end in N, C and S, whether channels are last, and the number of threads.
_OF_MAP = "NNNii"
_ARGUMENTS = {
    "sample_moments": "ppp" + _OF_MAP,
    "affine": "ppppppi" + _OF_MAP,
    "affine_grads": "ppppppp" + _OF_MAP,
    "input_grad": "ppppppp" + _OF_MAP,
    "norm_terms": "pppppppppdNN",
    "norm_terms_grads": "pppppppppppdNN",
}
_TYPES = {"p": ctypes.c_void_p, "d": ctypes.c_double, "i": ctypes.c_int, "N": ctypes.c_int64}


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """The function of the library for maps of a type."""
    found = library()
    assert found is not None
    function = getattr(found, f"{DTYPES[dtype]}_{name}")
    function.argtypes = [_TYPES[kind] for kind in _ARGUMENTS[name]]
    function.restype = None
    return function


def _call(
    name: str, like: torch.Tensor, tensors: Iterable[torch.Tensor | None], *args: Any
) -> None:
    """Run a function for values of like's type: on pointers to tensors, and on numbers."""
    pointers = [None if t is None else t.data_ptr() for t in tensors]
    _function(name, like.dtype)(*pointers, *args)


def _takes(z: torch.Tensor, *maps: torch.Tensor | None) -> bool:
    """Whether z is not empty and every map is of its type, which the C++ knows."""
    return (
        z.dtype in DTYPES and z.numel() > 0 and all(m is None or m.dtype == z.dtype for m in maps)
    )


def _sizes(z: torch.Tensor) -> tuple[int, int, int, bool, int]:
    """What the functions over maps take last, for a z in its own memory format."""
    last = memory_format(z) is not torch.contiguous_format
    return z.shape[0], z.shape[1], z.shape[2:].numel(), last, torch.get_num_threads()


def _new_values(z: torch.Tensor) -> torch.Tensor:
    """An empty [N, C]."""
    return z.new_empty(z.shape[:2])


def sample_moments(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z[N, C, H, W] -> mean[N, C] and variance[N, C] over space (correction 0)."""
    if not _takes(z):
        return affine_reference.sample_moments(z)
    z = z.contiguous(memory_format=memory_format(z))
    mean, var = _new_values(z), _new_values(z)
    _call("sample_moments", z, (z, mean, var), *_sizes(z))
    return mean, var


def affine(
    z: torch.Tensor,
    mean: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor | None,
    residual: torch.Tensor | None,
    relu: bool,
) -> torch.Tensor:
    """(z - mean) * scale + shift + residual, then ReLU, in z's type; None leaves a term out.

    z and residual are [N, C, H, W], the others [N, C].
    """
    if not _takes(z, residual):
        return affine_reference.affine(z, mean, scale, shift, residual, relu)
    z = z.contiguous(memory_format=memory_format(z))
    out = torch.empty_like(z)
    values = [sample_values(v, z, z.dtype) for v in (mean, scale, shift)]
    _call("affine", z, (z, *values, like_map(residual, z), out), relu, *_sizes(z))
    return out


def affine_grads(
    grad: torch.Tensor,
    out: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of what `affine` adds up, of scale and of shift: `affine_reference`."""
    if not _takes(z, grad, out):
        return affine_reference.affine_grads(grad, out, z, mean)
    z = z.contiguous(memory_format=memory_format(z))
    masked = None if out is None else torch.empty_like(z)
    d_scale, d_shift = _new_values(z), _new_values(z)
    given = (like_map(grad, z), like_map(out, z), z, sample_values(mean, z, z.dtype))
    _call("affine_grads", z, (*given, masked, d_scale, d_shift), *_sizes(z))
    return grad if masked is None else masked, d_scale, d_shift


def input_grad(
    grad: torch.Tensor | None,
    scale: torch.Tensor | None,
    z: torch.Tensor,
    mean: torch.Tensor,
    slope: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """The gradient of z, grad * scale + (z - mean) * slope + offset: `affine_reference`."""
    if not _takes(z, grad):
        return affine_reference.input_grad(grad, scale, z, mean, slope, offset)
    if grad is None or scale is None:
        grad = scale = None
    z = z.contiguous(memory_format=memory_format(z))
    out = torch.empty_like(z)
    scale, *values = (sample_values(v, z, z.dtype) for v in (scale, mean, slope, offset))
    _call("input_grad", z, (like_map(grad, z), scale, z, *values, out), *_sizes(z))
    return out


def norm_terms(
    mean_nc: torch.Tensor,
    var_nc: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """mean, var, inv_std and scale [C], descriptor [N, C]: `affine_reference`."""
    if not _takes(mean_nc):
        return affine_reference.norm_terms(mean_nc, var_nc, weight, bias, eps)
    results = (*mean_nc.new_empty(4, mean_nc.shape[1]), torch.empty_like(mean_nc))
    given = [_like_terms(v, mean_nc) for v in (weight, bias)]
    _call("norm_terms", mean_nc, (mean_nc, var_nc, *given, *results), eps, *mean_nc.shape)
    return results


def norm_terms_grads(
    d_mean_nc: torch.Tensor | None,
    d_scale: torch.Tensor | None,
    d_descriptor: torch.Tensor,
    mean_nc: torch.Tensor,
    mean: torch.Tensor,
    inv_std: torch.Tensor,
    scale: torch.Tensor,
    area: int,
) -> tuple[torch.Tensor, ...]:
    """The gradients of weight and bias [C], slope and offset [N, C]: `affine_reference`."""
    grads = (d_mean_nc, d_scale, d_descriptor)
    terms = (mean_nc, mean, inv_std, scale)
    if not _takes(mean_nc):
        return affine_reference.norm_terms_grads(*grads, *terms, area)
    results = (*mean_nc.new_empty(2, mean_nc.shape[1]), *mean_nc.new_empty(2, *mean_nc.shape))
    given = [_like_terms(v, mean_nc) for v in grads]
    _call("norm_terms_grads", mean_nc, (*given, *terms, *results), area, *mean_nc.shape)
    return results


def _like_terms(v: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """v as a contiguous tensor of like's type."""
    if v is None or (v.dtype == like.dtype and v.is_contiguous()):
        return v
    return v.to(like.dtype).contiguous()
