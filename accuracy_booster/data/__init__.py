"""Images from a name or a path to loaders."""

from accuracy_booster.data.loaders import Data, load_data, normalise
from accuracy_booster.data.sources import BUILT_IN
from accuracy_booster.data.transforms import AUGMENTS

__all__ = ["AUGMENTS", "BUILT_IN", "Data", "load_data", "normalise"]
