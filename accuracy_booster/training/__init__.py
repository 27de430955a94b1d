"""Train networks and measure them.

`starting_and_resuming` is where a training begins: it opens the data (`opening_data`), and has
`run_to_end` make a `Trainer` and train it (`fitting`) into a directory (`run_directory`).
"""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

_NAMES = {
    "PRESETS": "presets",
    "TrainConfig": "train_config",
    "new_dir": "output_directory",
    "resolve": "presets",
    "Evaluation": "measuring",
    "Metrics": "measuring",
    "evaluate": "evaluation",
    "Listed": "list_of_runs",
    "list_runs": "list_of_runs",
    "create_model": "loading_run",
    "load_run": "loading_run",
    "TrainResult": "train_result",
    "run_training": "run_to_end",
    "train": "starting_and_resuming",
}
__all__ = list(_NAMES)

if TYPE_CHECKING:
    from accuracy_booster.training.evaluation import evaluate as evaluate
    from accuracy_booster.training.list_of_runs import Listed as Listed
    from accuracy_booster.training.list_of_runs import list_runs as list_runs
    from accuracy_booster.training.loading_run import create_model as create_model
    from accuracy_booster.training.loading_run import load_run as load_run
    from accuracy_booster.training.measuring import Evaluation as Evaluation
    from accuracy_booster.training.measuring import Metrics as Metrics
    from accuracy_booster.training.output_directory import new_dir as new_dir
    from accuracy_booster.training.presets import PRESETS as PRESETS
    from accuracy_booster.training.presets import resolve as resolve
    from accuracy_booster.training.run_to_end import run_training as run_training
    from accuracy_booster.training.starting_and_resuming import train as train
    from accuracy_booster.training.train_config import TrainConfig as TrainConfig
    from accuracy_booster.training.train_result import TrainResult as TrainResult

__getattr__, __dir__ = lazy.names(__name__, _NAMES)
