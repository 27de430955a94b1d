"""Images from a name or a path to loaders."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# public name: the module that defines it
_PUBLIC = {
    "AUGMENTS": "choices",
    "BUILT_IN": "choices",
    "Data": "loaders",
    "load_data": "loaders",
    "normalise": "loaders",
}

__all__ = ["AUGMENTS", "BUILT_IN", "Data", "load_data", "normalise"]

if TYPE_CHECKING:
    from accuracy_booster.data.choices import AUGMENTS as AUGMENTS
    from accuracy_booster.data.choices import BUILT_IN as BUILT_IN
    from accuracy_booster.data.loaders import Data as Data
    from accuracy_booster.data.loaders import load_data as load_data
    from accuracy_booster.data.loaders import normalise as normalise

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
