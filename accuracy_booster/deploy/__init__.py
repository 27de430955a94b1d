"""Networks made ready for inference."""

from accuracy_booster.deploy.compiled import compile_for_inference
from accuracy_booster.deploy.folding import fold
from accuracy_booster.deploy.merging import merge

__all__ = ["compile_for_inference", "fold", "merge"]
