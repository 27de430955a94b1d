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
    "Listed": "list_of_runs",
    "list_runs": "list_of_runs",
    "TrainResult": "train_and_resume",
    "run_training": "train_and_resume",
    "train": "train_and_resume",
}
__all__ = list(_NAMES)

if TYPE_CHECKING:
    from accuracy_booster.training.config import TrainConfig as TrainConfig
    from accuracy_booster.training.evaluation import Metrics as Metrics
    from accuracy_booster.training.evaluation import evaluate as evaluate
    from accuracy_booster.training.list_of_runs import Listed as Listed
    from accuracy_booster.training.list_of_runs import list_runs as list_runs
    from accuracy_booster.training.presets import PRESETS as PRESETS
    from accuracy_booster.training.presets import new_dir as new_dir
    from accuracy_booster.training.presets import resolve as resolve
    from accuracy_booster.training.train_and_resume import TrainResult as TrainResult
    from accuracy_booster.training.train_and_resume import run_training as run_training
    from accuracy_booster.training.train_and_resume import train as train

__getattr__, __dir__ = lazy.names(__name__, _NAMES)
