"""Train one network with several blocks and seeds, and put the results side by side."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from accuracy_booster.analysis.comparison_folder import (
    BEGUN,
    REPORT,
    RESULTS,
    check_place_of,
    read_begun,
    remove,
    run_names,
)
from accuracy_booster.analysis.comparison_report import write_comparison
from accuracy_booster.analysis.cost import complexity
from accuracy_booster.analysis.latency import latency
from accuracy_booster.blocks import VERSION, as_recorded
from accuracy_booster.data import Data
from accuracy_booster.errors import Diverged, TrainingStopped
from accuracy_booster.files import write_json
from accuracy_booster.progress import bars, note
from accuracy_booster.training import (
    TrainConfig,
    TrainResult,
    new_dir,
    resolve,
    run_training,
)
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.identity import differences, new_id
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.network_building import build_network, check_network_and_block
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.reopening_data import check_place, check_same
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.network_building import build_network, check_network_and_block
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.run_files import BLOCKS, CONFIG
from accuracy_booster.training.train_result import result_of

DEFAULT_MODEL = "resnet14"
# what may differ between a comparison's settings and those of its run that is there
FREE_HERE = ("output", "overwrite", "data", "data_dir", "bad_images", "workers")
DEFAULT_BLOCKS = ("none", "se", "ab", "ab_plus")
BATCH = 64  # of the latency measurement


@dataclass(frozen=True)
class Row:
    """A block's results over the seeds: top-1 in % after the last epoch, and what it costs.

    Seeds whose training diverged have no top-1; `diverged` says why, by seed.
    """

    block: str
    top1: list[float]
    top1_mean: float | None  # None where every seed diverged
    top1_spread: float | None  # sample standard deviation; None for one seed
    parameters: int
    macs: int
    ms_per_image: float
    diverged: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured, and where its report and runs are."""

    rows: list[Row]
    report: Path
    seconds: float
    runs: list[TrainResult]
    latency_batch: int = BATCH
    id: str | None = None  # of the comparison; None for one that an older version began

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [asdict(row) for row in self.rows],
            "report": str(self.report),
            "seconds": self.seconds,
            "latency_batch": self.latency_batch,
            "id": self.id,
            "runs": [
                {
                    **{"directory": run.output.name, "id": run.id, "block": run.config.block},
                    **{"seed": run.config.seed, "weights_sha256": run.weights_sha256},
                }
                for run in self.runs
            ],
        }


def compare(
    model: str = DEFAULT_MODEL,
    *,
    blocks: Sequence[str] = DEFAULT_BLOCKS,
    seeds: int = 2,
    output: str | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> Comparison:
    """Train `model` with each block and seed, and write one HTML report.

    The variants of a seed start from the same base weights and see the same images in the same
    order. Accuracy is the last epoch's.

    Args:
        model: the network's name.
        blocks: recipes, or "none" for the plain network.
        seeds: how many; they count up from `seed`.
        output: the directory of the runs and the report; by default a new one under `runs/`.
        resume: the directory of a comparison to go on with, as it was begun; `data` and `data_dir`
            may then be the new place of its data.
        options: any other field of `ab.TrainConfig`, for all runs alike.

    A training that diverges is a result: its row says so, and the others go on.

    Raises:
        ValueError: for anything that `ab.train` refuses, before the first run starts.
        TrainingStopped: if every training diverged, or one stopped for another reason.
    """
    start, version = time.perf_counter(), VERSION
    now, moved, begun = True, dict[str, Any](), dict[str, Any]()
    if resume is not None:
        begun = read_begun(Path(resume))
        model, blocks, seeds = begun["model"], begun["blocks"], begun["seeds"]
        moved = {n: options.pop(n) for n in ("data", "data_dir") if n in options}
        if options:
            raise ValueError(f"resume goes on as it was begun; leave out {', '.join(options)}")
        options, output = {**begun["options"], **moved}, str(resume)
        now = "hold_out" in begun  # else an older version made its images and its split
        version = begun.get(BLOCKS, 1)
    if isinstance(blocks, str) or not blocks:
        raise ValueError(f"blocks={blocks!r} must be a list of recipes, such as ['none', 'ab']")
    if len(set(blocks)) < len(blocks):
        raise ValueError(f"blocks={list(blocks)} names a block twice")
    names = list(blocks)  # as they were given: the runs' folders are named after them
    if version != VERSION:
        blocks = [as_recorded(block, version) for block in names]
    if seeds < 1:
        raise ValueError(f"seeds={seeds} must be >= 1")
    base = resolve(model, **options)
    variants = [base.change({"block": block}) for block in blocks]
    for variant in variants:
        check_network_and_block(variant)
    where = (
        Path(output)
        if output
        else new_dir(Path("runs") / f"compare-{model.replace('/', '_')}-{base.data_name}")
    )
    if resume is None:
        check_place_of(where, base.overwrite)
    go_on = f"accuracy-booster compare --resume {shlex.quote(str(where))}"
    if resume is not None and "data" not in moved:
        check_place(where, base.data)
    data = open_data_of_new_run(base) if now else open_data(base, hold_out="rows")
    variants = [fill_in(variant, data) for variant in variants]
    for variant in variants:  # a block or weights that do not fit are told before the first run
        network = build_network(variant)
        if variant.weights is not None:
            start_from_weights(network, variant)
    # absolute paths, so that it can go on from everywhere
    places = {name: getattr(variants[0], name) for name in ("data", "data_dir", "weights")}
    options = {**options, **{name: places[name] for name in places if options.get(name)}}
    configs = [
        (folder, variant.change({"seed": seed, "output": str(where / f"{folder}-s{seed}")}))
        for seed in range(base.seed, base.seed + seeds)
        for folder, variant in zip(run_names(names), variants, strict=True)
    ]
    given: dict[str, Any] = {
        "model": model,
        "blocks": names,
        "seeds": seeds,
        "options": options,
        BLOCKS: version,
    }
    given |= {"hold_out": "names"} if now else {}
    if resume is None:
        remove(where, keep=[Path(str(c.output)).name for _, c in configs])
        given |= {"id": new_id(), "runs": [Path(str(c.output)).name for _, c in configs]}
    else:
        given |= {name: begun[name] for name in ("id", "runs") if name in begun}
    if given != begun:
        write_json(where / BEGUN, given)
    runs, failures = list[TrainResult](), dict[str, dict[int, str]]()
    with bars() as progress:
        total = progress.add_task("Comparing", total=len(configs), note=f"{model} on {base.data}")
        for _, config in configs:
            label = f"{config.block}, seed {config.seed}"
            again = data.reseed(config.seed)
            try:
                run = _run(config, again, progress, label, go_on, begun)
            except Diverged as e:
                failures.setdefault(config.block, {})[config.seed] = str(e)
                progress.console.print(f"{label}: diverged, {e}")
            else:
                said = f"top-1 {run.test.top1:.2f} %, {run.seconds:.0f} s"
                progress.console.print(f"{label}: {said}")
                runs.append(run)
            progress.advance(total)
        if not runs:
            raise TrainingStopped(
                f"every training of the comparison diverged; the first: {_first(failures)}"
            )
        progress.update(total, note="measuring inference")
        rows = _rows(variants, runs, failures)
    page = where / REPORT
    seconds = time.perf_counter() - start
    result = Comparison(rows, page, seconds, runs, id=given.get("id"))
    write_comparison(page, result)
    write_json(where / RESULTS, result.to_dict())
    return result


def _first(failures: dict[str, dict[int, str]]) -> str:
    return next(reason for found in failures.values() for reason in found.values())


def _run(
    config: TrainConfig, data: Data, progress: Any, label: str, go_on: str, begun: dict[str, Any]
) -> TrainResult:
    """One run of a comparison: begun, gone on with, or taken as it ended.

    Raises:
        Diverged: if it diverges, or did so before.
        ValueError: if the run that is there is not one of this comparison.
    """
    run = None
    if begun and (Path(str(config.output)) / CONFIG).exists():
        run, stored = Run.open(Path(str(config.output)), ended=False)
        if "id" in begun and (other := differences(stored, config, *FREE_HERE)):
            raise ValueError(
                f"the run in {run.path} is not of this comparison: it has {other}; move it away, "
                "and --resume trains it anew"
            )
        config = stored.change({name: getattr(config, name) for name in FREE_HERE})
        check_same(run, config, data)
        if run.info.get("diverged"):
            raise Diverged(run.info["diverged"])
        state = run.state(config.epochs, thorough=True)
        if state == "finished":
            return result_of(Classification, run, config)
        if state != "stopped":
            note(f"the run in {run.path} is damaged: {state}")
    task = Classification(config, data)
    return run_training(task, progress, label, lines=False, run=run, resume_command=go_on)


def _rows(
    variants: Sequence[TrainConfig],
    runs: Sequence[TrainResult],
    failures: dict[str, dict[int, str]],
) -> list[Row]:
    of = {v.block: [run for run in runs if run.config.block == v.block] for v in variants}
    networks = {
        v.block: load_network(*Run.open(of[v.block][0].output))
        if of[v.block]
        else build_network(v)  # what it costs does not depend on its weights
        for v in variants
    }
    size = variants[0].input_size
    ms = latency(networks, size, batch_size=BATCH)
    rows = []
    for block, members in of.items():
        top1 = [run.test.top1 for run in members]
        cost = complexity(networks[block], size)
        average = mean(top1) if top1 else None
        spread = stdev(top1) if len(top1) > 1 else None
        costs = cost.parameters, cost.macs, ms[block]
        rows.append(Row(block, top1, average, spread, *costs, failures.get(block, {})))
    return rows
