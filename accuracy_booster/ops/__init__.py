"""Tensor operations under the blocks: plain functions, no modules."""

from accuracy_booster.ops.allocator import keep_freed_memory
from accuracy_booster.ops.precision import accumulation_dtype, bf16_works, without_autocast
from accuracy_booster.ops.rescale import rescale
from accuracy_booster.ops.tracing import is_proxy, leaf, leaf_module

__all__ = [
    "accumulation_dtype",
    "bf16_works",
    "is_proxy",
    "keep_freed_memory",
    "leaf",
    "leaf_module",
    "rescale",
    "without_autocast",
]
