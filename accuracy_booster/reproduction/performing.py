"""Make one run, from wherever it had come to, and write its result.

What runs here may be killed at any instant: the same call goes on, and ends with the same result.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from accuracy_booster.errors import Diverged
from accuracy_booster.progress import note
from accuracy_booster.reproduction.datasets import summary
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.records import Record, about, write_record
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.tables import TIME
from accuracy_booster.training import TrainResult, new_dir, train
from accuracy_booster.training.run import Run


def perform(spec: Spec, places: Places) -> Path:
    """Make a run and write its result; returns the result's path.

    Raises:
        ValueError: if its data or weights are not at hand, or do not fit.
        CannotWrite: if there is no room on the disk.
        TrainingInterrupted: after a signal; the same call goes on.
        TrainingStopped: where it cannot go on.
    """
    record = (_timed if spec.measures == TIME else _trained)(spec, places)
    return write_record(places.results, record)


def _trained(spec: Spec, places: Places) -> Record:
    """Accuracies of the last epoch; none where the training diverged."""
    begun, where = time.time(), places.run(spec)
    more: dict[str, Any]
    try:
        result = _training(spec, places, where)
    except Diverged as e:
        run, _ = Run.open(where, ended=False)
        values, epochs = dict[str, float](), run.history()
        seconds, diverged, more = time.time() - begun, str(e), {}
    else:
        run, config = Run.open(where)
        values = {"top1": result.test.top1, "top5": result.test.top5}
        epochs, seconds, diverged = result.history, result.seconds, ""
        decided = run.info.get("decided", {})
        more = {
            **{"weights_sha256": result.weights_sha256, "images": result.test.images},
            **{"compiled": decided.get("compile"), "fused": decided.get("fuse")},
            **{"init": config.init, "parameters": result.parameters},
            "device": run.info.get("device"),
        }
    data = summary(str(spec.options["data"]), run.info.get("data"))
    own = about(begun=begun, more={"run": run.id, **more})
    return Record(spec, values, epochs, seconds, diverged, data, own)


def _training(spec: Spec, places: Places, where: Path) -> TrainResult:
    """The finished training: begun, gone on with, or found."""
    place = places.data_of(str(spec.options["data"]))
    config = spec.config.change({**place, "output": str(where)})
    if config.weights is not None:
        config = config.change({"weights": str(places.weights_of(config.weights))})
    if Run.is_run(where):
        try:
            run, _ = Run.open(where, ended=False)
            if run.info.get("diverged"):
                raise Diverged(run.info["diverged"])
            return train(resume=where, **place)
        except ValueError as e:  # damaged: it is kept, and the run made anew
            aside = new_dir(where.with_name(f"{where.name}.damaged"))
            where.rename(aside)
            note(f"{e}; it is now {aside}, and the run is made anew")
    return train(config)


def _timed(spec: Spec, _: Places) -> Record:
    """Seconds per batch of each block, the compiled networks in turns."""
    from accuracy_booster.analysis import bench

    begun = time.time()
    options = dict(spec.options)
    size = options.pop("input_size", None)
    found = bench(
        options.pop("model"),
        modes=("infer",),
        paths=("naive",),
        compile=(True,),
        batch_sizes=(options.pop("batch_size"),),
        input_size=None if size is None else tuple(size),
        **options,
    )
    values = {row.block: row.milliseconds / 1000 for row in found.rows}
    more = {"input_size": list(found.input_size)}
    return Record(spec, values, seconds=time.time() - begun, about=about(begun=begun, more=more))
