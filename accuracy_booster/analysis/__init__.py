"""What networks cost and reach: counting, timing, comparing, reporting."""

from accuracy_booster.analysis.compare import Comparison, compare
from accuracy_booster.analysis.complexity import Complexity, complexity

__all__ = ["Comparison", "Complexity", "compare", "complexity"]
