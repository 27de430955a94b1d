"""Object detection: Faster R-CNN with any network, boosted or not, as its backbone.

Where to find what:

data        `layouts` finds files, `coco` reads them, `selecting` decides what is used (`split`),
            `images` and `augmenting` give images with targets, `batches` and `loaders` batches
detector    `detector` puts it together: `backbone`, its `stages` and `feature_maps`, `heads`,
            `anchors`; `norms`, `gate_statistics` and `freezing` decide what is trained
training    `config`, `resolving` and `building` turn settings into data and a detector; `task` is
            what the trainer calls; `training` is `ab.detection.train`; `weights` loads a start
measuring   `metrics` (COCO's numbers), `measuring` (a split), `evaluating` (a run)
predicting  `predicting` (values), `drawing` (pictures), `predicted_files`
"""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# {public name: the file that defines it}
_PUBLIC = {
    "DetectConfig": "config",
    "DetectionBatch": "batches",
    "DetectionData": "loaders",
    "DetectionMetrics": "metrics",
    "Detector": "detector",
    "PredictedFiles": "predicted_files",
    "Prediction": "predicting",
    "coco_metrics": "metrics",
    "draw": "drawing",
    "estimate_gate_norms": "gate_statistics",
    "evaluate": "evaluating",
    "faster_rcnn": "detector",
    "load": "training",
    "load_coco": "loaders",
    "predict": "predicting",
    "predict_files": "predicted_files",
    "summary": "trainable_parts",
    "train": "training",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.detection.batches import DetectionBatch as DetectionBatch
    from accuracy_booster.detection.config import DetectConfig as DetectConfig
    from accuracy_booster.detection.detector import Detector as Detector
    from accuracy_booster.detection.detector import faster_rcnn as faster_rcnn
    from accuracy_booster.detection.drawing import draw as draw
    from accuracy_booster.detection.evaluating import evaluate as evaluate
    from accuracy_booster.detection.gate_statistics import (
        estimate_gate_norms as estimate_gate_norms,
    )
    from accuracy_booster.detection.loaders import DetectionData as DetectionData
    from accuracy_booster.detection.loaders import load_coco as load_coco
    from accuracy_booster.detection.metrics import DetectionMetrics as DetectionMetrics
    from accuracy_booster.detection.metrics import coco_metrics as coco_metrics
    from accuracy_booster.detection.predicted_files import PredictedFiles as PredictedFiles
    from accuracy_booster.detection.predicted_files import predict_files as predict_files
    from accuracy_booster.detection.predicting import Prediction as Prediction
    from accuracy_booster.detection.predicting import predict as predict
    from accuracy_booster.detection.trainable_parts import summary as summary
    from accuracy_booster.detection.training import load as load
    from accuracy_booster.detection.training import train as train

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
