"""Make one run, or continue one that was interrupted, and write its result.

The process may be killed at any instant. The same call then continues the run and ends with the
same result.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.detection.training import train as train_detector
from accuracy_booster.errors import Diverged
from accuracy_booster.progress import note
from accuracy_booster.reproduction.environment import this_environment
from accuracy_booster.reproduction.known_data import summary
from accuracy_booster.reproduction.merged_gates import weights_of_merged
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import write_record
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import AP, GATES, TIME, TOP1
from accuracy_booster.training import TrainResult, new_dir, train
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import is_run


def perform(spec: Spec, places: Places) -> Path:
    """Make a run and write its result; returns the result's path.

    Raises:
        ValueError: if its data or weights are not at hand, or do not fit.
        CannotWrite: if there is no room on the disk.
        TrainingInterrupted: after a signal; the same call continues the run.
        TrainingStopped: if the training cannot continue.
    """
    makers = {TOP1: _trained, AP: _trained, TIME: _timed, GATES: _inspected}
    return write_record(places.results, makers[spec.measures](spec, places))


def _trained(spec: Spec, places: Places) -> Record:
    """The result of a training: the numbers of its last epoch, or why it diverged."""
    begun, where = time.time(), places.run(spec)
    more: dict[str, Any]
    weights, at_once = _start(spec, places)
    try:
        result = _training(spec, places, weights)
    except Diverged as e:
        run, _ = Run.open(where, ended=False, kind=type(spec.config))
        values, epochs = dict[str, float](), run.history()
        seconds, diverged, more = time.time() - begun, str(e), {}
    else:
        run, config = Run.open(where, kind=type(spec.config))
        values = {**_measured(result), **at_once}
        epochs, seconds, diverged = result.history, result.seconds, ""
        decided = run.info.get("decided", {})
        more = {
            **{"weights_sha256": result.weights_sha256, "images": result.test.images},
            **{"compiled": decided.get("compile"), "fused": decided.get("fuse")},
            **{"init": config.init, "parameters": result.parameters},
            "device": run.info.get("device"),
        }
    data = summary(str(spec.options["data"]), run.info.get("data"))
    own = this_environment(begun=begun, more={"run": run.id, **more})
    return Record(spec, values, epochs, seconds, diverged, data, own)


def _measured(result: TrainResult) -> dict[str, float]:
    """The numbers in %. Those for sizes of objects that no image has are left out."""
    if not isinstance(result.config, DetectConfig):
        return {"top1": result.test.top1, "top5": result.test.top5}
    found = result.test.to_dict()
    return {k: v for k, v in found.items() if k != "images" and v is not None}


def _start(spec: Spec, places: Places) -> tuple[Path | None, dict[str, float]]:
    """The weights that a training starts from (None for random ones).

    The second value holds the accuracies of a network whose gates were made constants, before it
    is trained further.
    """
    if spec.parent is None:
        name = spec.config.weights
        return (None if name is None else places.weights_of(name)), {}
    begun = _parent(spec, places)
    return weights_of_merged(spec, places) if spec.options["merged"] else (begun, {})


def _parent(spec: Spec, places: Places) -> Path:
    """The directory of the finished run whose network a run starts from; it is made if need be.

    Raises:
        Diverged: if that training diverged.
    """
    assert spec.parent is not None
    _training(spec.parent, places, _start(spec.parent, places)[0])
    return places.run(spec.parent)


def _inspected(spec: Spec, places: Places) -> Record:
    """The accuracies of a trained network with its gates changed, and its weights for Figure 3."""
    from accuracy_booster.inspection import inspect

    begun, place = time.time(), places.data_of(str(spec.options["data"]))
    try:
        where = _parent(spec, places)
    except Diverged as e:
        return Record(
            spec, {}, [], time.time() - begun, str(e), None, this_environment(begun=begun)
        )
    found = inspect(where, place["data"], percents=spec.options["percents"])
    run, _ = Run.open(where)
    values = {"top1": found.top1, "frozen": found.all_frozen.top1}
    values |= {f"{cell.which} {cell.percent:g}": cell.outcome.top1 for cell in found.zeroed}
    layer = found.gates[found.layer]
    figure = {"layer": found.layer, "mean_weights": [round(float(w), 4) for w in layer.mean]}
    more = {"run": run.id, "images": found.images, "figure_3": figure}
    data = summary(str(spec.options["data"]), run.info.get("data"))
    own = this_environment(begun=begun, more=more)
    return Record(spec, values, [], time.time() - begun, "", data, own)


def _training(spec: Spec, places: Places, weights: Path | None) -> TrainResult:
    """The finished training of a run: started, continued, or found finished.

    Raises:
        Diverged: if it diverged, now or before.
    """
    where = places.run(spec)
    place = places.data_of(str(spec.options["data"]))
    config = spec.config.change({**place, "output": str(where)})
    if weights is not None:
        config = config.change({"weights": str(weights)})
    training: Any = train_detector if spec.measures == AP else train
    if is_run(where):
        try:
            run, _ = Run.open(where, ended=False, kind=type(config))
            if run.info.get("diverged"):
                raise Diverged(run.info["diverged"])
            return training(resume=where, **place)
        except ValueError as e:  # the run is damaged: it is kept aside and made again
            aside = new_dir(where.with_name(f"{where.name}.damaged"))
            where.rename(aside)
            note(f"{e}; it is now {aside}, and the run is made anew")
    return training(config)


def _timed(spec: Spec, _: Places) -> Record:
    """The seconds per batch of each block; the compiled networks are timed in turn."""
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
    return Record(
        spec, values, seconds=time.time() - begun, about=this_environment(begun=begun, more=more)
    )
