"""Re-calibration without a pass of its own: fused for training, folded for inference."""

from accuracy_booster.fastpath.compiled import compile_for_inference
from accuracy_booster.fastpath.folding import fold
from accuracy_booster.fastpath.fusing import FastPath, fast_path, fuse, unfuse
from accuracy_booster.fastpath.merging import merge

__all__ = ["FastPath", "compile_for_inference", "fast_path", "fold", "fuse", "merge", "unfuse"]
