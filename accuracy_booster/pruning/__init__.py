"""Pruning: networks with fewer channels, chosen by their gates or by another criterion."""

from accuracy_booster.pruning.channels import prune
from accuracy_booster.pruning.report import Pruning, pruned_channels, pruning_of

__all__ = ["Pruning", "prune", "pruned_channels", "pruning_of"]
