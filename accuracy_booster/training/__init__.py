"""Train and measure: one configuration, one trainer, one run directory."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

_NAMES = {
    "PRESETS": "config",
    "TrainConfig": "config",
    "new_dir": "config",
    "resolve": "config",
    "Metrics": "evaluation",
    "evaluate": "evaluation",
    "TrainResult": "loop",
    "run_training": "loop",
    "train": "loop",
}
__all__ = list(_NAMES)

if TYPE_CHECKING:
    from accuracy_booster.training.config import PRESETS as PRESETS
    from accuracy_booster.training.config import TrainConfig as TrainConfig
    from accuracy_booster.training.config import new_dir as new_dir
    from accuracy_booster.training.config import resolve as resolve
    from accuracy_booster.training.evaluation import Metrics as Metrics
    from accuracy_booster.training.evaluation import evaluate as evaluate
    from accuracy_booster.training.loop import TrainResult as TrainResult
    from accuracy_booster.training.loop import run_training as run_training
    from accuracy_booster.training.loop import train as train

__getattr__, __dir__ = lazy.names(__name__, _NAMES)
