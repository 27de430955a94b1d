"""Images from a name or a path to loaders."""

from accuracy_booster.data.loaders import AUGMENTS, Data, load_data, normalise
from accuracy_booster.data.sources import BUILT_IN

__all__ = ["AUGMENTS", "BUILT_IN", "Data", "load_data", "normalise"]
