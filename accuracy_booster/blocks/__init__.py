"""Re-calibration blocks: a grammar, a table of named recipes, and the module they build."""

from accuracy_booster.blocks.grammar import Recipe, RecipeError
from accuracy_booster.blocks.layers import Bottleneck, Dense, GateNorm
from accuracy_booster.blocks.recalibrate import Gate, Recalibrate
from accuracy_booster.blocks.table import TABLE, list_recipes, recipe

__all__ = [
    "TABLE",
    "Bottleneck",
    "Dense",
    "Gate",
    "GateNorm",
    "Recalibrate",
    "Recipe",
    "RecipeError",
    "list_recipes",
    "recipe",
]
