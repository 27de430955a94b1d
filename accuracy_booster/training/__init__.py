"""Train and measure: one configuration, one trainer, one run directory."""

from accuracy_booster.training.config import PRESETS, TrainConfig, new_dir, resolve
from accuracy_booster.training.evaluation import Metrics, evaluate
from accuracy_booster.training.loop import TrainResult, run_training, train

__all__ = [
    "PRESETS",
    "Metrics",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "new_dir",
    "resolve",
    "run_training",
    "train",
]
