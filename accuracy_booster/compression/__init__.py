"""Smaller networks: gates merged into the layers as constants, and channels removed."""

from accuracy_booster.compression.merging import merge
from accuracy_booster.compression.pruning import Pruning, prune, pruned_channels, pruning_of

__all__ = ["Pruning", "merge", "prune", "pruned_channels", "pruning_of"]
