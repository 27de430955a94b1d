"""What the gates of a network do: `ab.gates`, `ab.inspect`."""

from accuracy_booster.inspection.inspecting import inspect
from accuracy_booster.inspection.observing import gates
from accuracy_booster.inspection.results import Inspection, Outcome, Zeroed
from accuracy_booster.inspection.statistics import Gates, GateStatistics

__all__ = ["GateStatistics", "Gates", "Inspection", "Outcome", "Zeroed", "gates", "inspect"]
