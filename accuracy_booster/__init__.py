"""Accuracy Booster: make a convolutional network more accurate by re-calibrating its channels.

`import accuracy_booster as ab`. Nothing is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accuracy_booster import lazy
from accuracy_booster.version import __version__ as __version__

# public name: the module that defines it
_PUBLIC = {
    "Recalibrate": "blocks",
    "Recipe": "blocks",
    "list_recipes": "blocks",
    "recipe": "blocks",
    "FastPath": "fastpath",
    "Plan": "surgery",
    "added_parameters": "surgery",
    "boost": "surgery",
    "disabled": "surgery",
    "fast_path": "fastpath",
    "freeze_norms": "surgery",
    "fuse": "fastpath",
    "gate_record": "surgery",
    "load": "surgery",
    "materialize": "surgery",
    "plan": "surgery",
    "rebuild_gates": "surgery",
    "repair": "surgery",
    "save": "surgery",
    "unboost": "surgery",
    "unfuse": "fastpath",
    "create_model": "training",
    "list_models": "models",
    "TrainConfig": "training",
    "evaluate": "training",
    "load_run": "training",
    "train": "training",
    "compare": "analysis",
    "bench": "analysis",
    "complexity": "analysis",
    "gates": "inspection",
    "inspect": "inspection",
    "compile_for_inference": "fastpath",
    "export": "deploy",
    "push_to_hub": "deploy",
    "save_pretrained": "deploy",
    "fold": "fastpath",
    "merge": "fastpath",
    "predict": "prediction",
    "prune": "pruning",
    "pruning_of": "pruning",
}

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from accuracy_booster.analysis import bench as bench
    from accuracy_booster.analysis import compare as compare
    from accuracy_booster.analysis import complexity as complexity
    from accuracy_booster.blocks import Recalibrate as Recalibrate
    from accuracy_booster.blocks import Recipe as Recipe
    from accuracy_booster.blocks import list_recipes as list_recipes
    from accuracy_booster.blocks import recipe as recipe
    from accuracy_booster.deploy import export as export
    from accuracy_booster.deploy import push_to_hub as push_to_hub
    from accuracy_booster.deploy import save_pretrained as save_pretrained
    from accuracy_booster.fastpath import FastPath as FastPath
    from accuracy_booster.fastpath import compile_for_inference as compile_for_inference
    from accuracy_booster.fastpath import fast_path as fast_path
    from accuracy_booster.fastpath import fold as fold
    from accuracy_booster.fastpath import fuse as fuse
    from accuracy_booster.fastpath import merge as merge
    from accuracy_booster.fastpath import unfuse as unfuse
    from accuracy_booster.inspection import gates as gates
    from accuracy_booster.inspection import inspect as inspect
    from accuracy_booster.models import list_models as list_models
    from accuracy_booster.prediction import predict as predict
    from accuracy_booster.pruning import prune as prune
    from accuracy_booster.pruning import pruning_of as pruning_of
    from accuracy_booster.surgery import Plan as Plan
    from accuracy_booster.surgery import added_parameters as added_parameters
    from accuracy_booster.surgery import boost as boost
    from accuracy_booster.surgery import disabled as disabled
    from accuracy_booster.surgery import freeze_norms as freeze_norms
    from accuracy_booster.surgery import gate_record as gate_record
    from accuracy_booster.surgery import load as load
    from accuracy_booster.surgery import materialize as materialize
    from accuracy_booster.surgery import plan as plan
    from accuracy_booster.surgery import rebuild_gates as rebuild_gates
    from accuracy_booster.surgery import repair as repair
    from accuracy_booster.surgery import save as save
    from accuracy_booster.surgery import unboost as unboost
    from accuracy_booster.training import TrainConfig as TrainConfig
    from accuracy_booster.training import create_model as create_model
    from accuracy_booster.training import evaluate as evaluate
    from accuracy_booster.training import load_run as load_run
    from accuracy_booster.training import train as train


_PARTS = (
    "analysis",
    "blocks",
    "data",
    "deploy",
    "exported",
    "fastpath",
    "detection",
    "inspection",
    "integrations",
    "models",
    "ops",
    "prediction",
    "pruning",
    "reproduction",
    "surgery",
    "training",
)

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC, _PARTS)
