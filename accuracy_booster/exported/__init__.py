"""Exported files: what they are, what they say of themselves, and how they are run.

Nothing here imports torch, except to run a file of the format "torch". `preprocessing` makes images
inputs, and `predicting` names their classes, for `ab.predict`. `deploy` writes the files.
"""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# {public name: the file that defines it}
_PUBLIC = {
    "About": "about",
    "FORMATS": "formats",
    "Prediction": "predicted",
    "open_file": "sessions",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.exported.about import About as About
    from accuracy_booster.exported.formats import FORMATS as FORMATS
    from accuracy_booster.exported.predicted import Prediction as Prediction
    from accuracy_booster.exported.sessions import open_file as open_file

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
