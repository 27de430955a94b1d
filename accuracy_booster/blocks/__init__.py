"""Re-calibration blocks: a grammar, a table of named recipes, and the module they build."""

from accuracy_booster.blocks.gate_norm import GateNorm
from accuracy_booster.blocks.grammar import Recipe
from accuracy_booster.blocks.layers import Bottleneck, Dense
from accuracy_booster.blocks.named import TABLE, as_recorded, list_recipes, recipe
from accuracy_booster.blocks.parsing import RecipeError
from accuracy_booster.blocks.recalibrate import Gate, Recalibrate
from accuracy_booster.blocks.versions import VERSION

__all__ = [
    "TABLE",
    "VERSION",
    "Bottleneck",
    "Dense",
    "Gate",
    "GateNorm",
    "Recalibrate",
    "Recipe",
    "RecipeError",
    "as_recorded",
    "list_recipes",
    "recipe",
]
