"""What the gates of a network do: `ab.gates`, `ab.inspect`."""

from accuracy_booster.inspection.gate_statistics import Gates, GateStatistics
from accuracy_booster.inspection.inspecting import inspect
from accuracy_booster.inspection.observing import gates
from accuracy_booster.inspection.results import Inspection, Outcome, Zeroed

__all__ = ["GateStatistics", "Gates", "Inspection", "Outcome", "Zeroed", "gates", "inspect"]
