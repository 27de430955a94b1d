"""Train and measure: one configuration, one trainer, one run directory."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

_NAMES = {
    "PRESETS": "presets",
    "TrainConfig": "config",
    "new_dir": "presets",
    "resolve": "presets",
    "Metrics": "evaluation",
    "evaluate": "evaluation",
    "Listed": "listing",
    "list_runs": "listing",
    "TrainResult": "runner",
    "run_training": "runner",
    "train": "runner",
}
__all__ = list(_NAMES)

if TYPE_CHECKING:
    from accuracy_booster.training.config import TrainConfig as TrainConfig
    from accuracy_booster.training.evaluation import Metrics as Metrics
    from accuracy_booster.training.evaluation import evaluate as evaluate
    from accuracy_booster.training.listing import Listed as Listed
    from accuracy_booster.training.listing import list_runs as list_runs
    from accuracy_booster.training.presets import PRESETS as PRESETS
    from accuracy_booster.training.presets import new_dir as new_dir
    from accuracy_booster.training.presets import resolve as resolve
    from accuracy_booster.training.runner import TrainResult as TrainResult
    from accuracy_booster.training.runner import run_training as run_training
    from accuracy_booster.training.runner import train as train

__getattr__, __dir__ = lazy.names(__name__, _NAMES)
