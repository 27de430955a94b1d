"""What networks cost and reach: counting, timing, comparing, reporting."""

from accuracy_booster.analysis.benchmark import Bench, bench
from accuracy_booster.analysis.comparison import Comparison, compare
from accuracy_booster.analysis.cost import Complexity, complexity

__all__ = ["Bench", "Comparison", "Complexity", "bench", "compare", "complexity"]
