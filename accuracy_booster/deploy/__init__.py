"""Networks made ready for inference."""

from accuracy_booster.deploy.compiled import compile_for_inference
from accuracy_booster.deploy.folding import fold
from accuracy_booster.deploy.merging import merge
from accuracy_booster.deploy.pruning import Pruning, prune, pruned_channels, pruning_of

__all__ = [
    "Pruning",
    "compile_for_inference",
    "fold",
    "merge",
    "prune",
    "pruned_channels",
    "pruning_of",
]
