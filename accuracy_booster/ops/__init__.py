"""Functions of tensors under the blocks and the fast path; there are no layers here."""

from accuracy_booster.ops.allocator import keep_freed_memory
from accuracy_booster.ops.fx_leaves import is_proxy, leaf, leaf_module
from accuracy_booster.ops.precision import accumulation_dtype, bf16_works, without_autocast
from accuracy_booster.ops.rescaling import rescale

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
