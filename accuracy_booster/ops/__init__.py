"""Tensor operations under the blocks: plain functions, no modules."""

from accuracy_booster.ops.memory import keep_freed_memory
from accuracy_booster.ops.precision import accumulation_dtype, bf16_works, without_autocast
from accuracy_booster.ops.rescale import rescale

__all__ = ["accumulation_dtype", "bf16_works", "keep_freed_memory", "rescale", "without_autocast"]
