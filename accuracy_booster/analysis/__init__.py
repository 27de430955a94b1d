"""What networks cost and reach: counting operations, timing, and comparing blocks by training."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# public name: the module that defines it
_NAMES = {
    "Bench": "benchmark_results",
    "Comparison": "comparison_results",
    "Complexity": "cost",
    "bench": "benchmark",
    "compare": "comparison",
    "complexity": "cost",
}
_MODULES = ("benchmark", "comparison", "conventions", "cost", "counter", "measuring", "operators")
__all__ = ["Bench", "Comparison", "Complexity", "bench", "compare", "complexity"]

if TYPE_CHECKING:
    from accuracy_booster.analysis.benchmark import bench as bench
    from accuracy_booster.analysis.benchmark_results import Bench as Bench
    from accuracy_booster.analysis.comparison import compare as compare
    from accuracy_booster.analysis.comparison_results import Comparison as Comparison
    from accuracy_booster.analysis.cost import Complexity as Complexity
    from accuracy_booster.analysis.cost import complexity as complexity

__getattr__, __dir__ = lazy.names(__name__, _NAMES, _MODULES)
