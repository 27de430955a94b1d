"""Data sets: from a name or a path to batches of images."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# public name: the module that defines it
_PUBLIC = {
    "AUGMENTS": "choices",
    "BUILT_IN": "choices",
    "Data": "data_set",
    "load_data": "loaders",
    "normalise": "normalisation",
}

__all__ = ["AUGMENTS", "BUILT_IN", "Data", "load_data", "normalise"]

if TYPE_CHECKING:
    from accuracy_booster.data.choices import AUGMENTS as AUGMENTS
    from accuracy_booster.data.choices import BUILT_IN as BUILT_IN
    from accuracy_booster.data.data_set import Data as Data
    from accuracy_booster.data.loaders import load_data as load_data
    from accuracy_booster.data.normalisation import normalise as normalise

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
