"""Classes and probabilities of images: `ab.predict`, and the files that `predict` writes.

`predicting` sends a run or a module to `predictors`, and an exported file to `exported.predicting`.
`preprocessing` says how images are made for a network, `given_images` reads what the user gives,
and `predicted_files` writes CSV and JSON.
"""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# {public name: the file that defines it}
_PUBLIC = {"Prediction": "predicting", "predict": "predicting", "write": "predicted_files"}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.exported.predicted import Prediction as Prediction
    from accuracy_booster.prediction.predicted_files import write as write
    from accuracy_booster.prediction.predicting import predict as predict

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
