"""Gates without a pass of their own: fused for training, folded or merged for inference."""

from accuracy_booster.fastpath.compiled import compile_for_inference
from accuracy_booster.fastpath.folding import fold
from accuracy_booster.fastpath.fusing import fuse, unfuse
from accuracy_booster.fastpath.merging import merge
from accuracy_booster.fastpath.report import FastPath, fast_path

__all__ = ["FastPath", "compile_for_inference", "fast_path", "fold", "fuse", "merge", "unfuse"]
