"""What networks cost and reach: counting, timing, comparing, reporting."""

from accuracy_booster.analysis.benchmark import bench
from accuracy_booster.analysis.comparison import Comparison, compare
from accuracy_booster.analysis.cost import Complexity, complexity
from accuracy_booster.analysis.timings import Bench

__all__ = ["Bench", "Comparison", "Complexity", "bench", "compare", "complexity"]
