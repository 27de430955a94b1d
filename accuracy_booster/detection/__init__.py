"""Object detection: Faster R-CNN with any network, boosted or not, as its backbone."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# public name: the module that defines it
_PUBLIC: dict[str, str] = {
    "DetectionMetrics": "metrics",
    "PredictedFiles": "predicted_files",
    "Prediction": "predicting",
    "coco_metrics": "metrics",
    "draw": "drawing",
    "predict": "predicting",
    "predict_files": "predicted_files",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.detection.drawing import draw as draw
    from accuracy_booster.detection.metrics import DetectionMetrics as DetectionMetrics
    from accuracy_booster.detection.metrics import coco_metrics as coco_metrics
    from accuracy_booster.detection.predicted_files import PredictedFiles as PredictedFiles
    from accuracy_booster.detection.predicted_files import predict_files as predict_files
    from accuracy_booster.detection.predicting import Prediction as Prediction
    from accuracy_booster.detection.predicting import predict as predict

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
