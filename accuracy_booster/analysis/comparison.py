"""Train one network with several blocks and seeds, and put the results side by side."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from accuracy_booster.analysis import report
from accuracy_booster.analysis.cost import complexity
from accuracy_booster.analysis.latency import latency
from accuracy_booster.blocks import VERSION, as_recorded
from accuracy_booster.data import Data
from accuracy_booster.progress import bars
from accuracy_booster.training import (
    TrainConfig,
    TrainResult,
    engine,
    new_dir,
    resolve,
    run_training,
)
from accuracy_booster.training.checkpoint import write
from accuracy_booster.training.reopen import check_place, check_same
from accuracy_booster.training.run import BLOCKS, CONFIG, Run
from accuracy_booster.training.runner import result_of
from accuracy_booster.training.start import start_from_weights

DEFAULT_MODEL, BEGUN = "resnet14", "compare.json"
DEFAULT_BLOCKS = ("none", "se", "ab", "ab_plus")
BATCH = 64  # of the latency measurement


@dataclass(frozen=True)
class Row:
    """A block's results over the seeds: top-1 in % after the last epoch, and what it costs."""

    block: str
    top1: list[float]
    top1_mean: float
    top1_spread: float | None  # sample standard deviation; None for one seed
    parameters: int
    macs: int
    ms_per_image: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured, and where its report and runs are."""

    rows: list[Row]
    report: Path
    seconds: float
    runs: list[TrainResult]
    latency_batch: int = BATCH

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [asdict(row) for row in self.rows],
            "report": str(self.report),
            "seconds": self.seconds,
            "latency_batch": self.latency_batch,
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

    Raises:
        ValueError: for anything that `ab.train` refuses, before the first run starts.
    """
    start, version = time.perf_counter(), VERSION
    now, moved = True, dict[str, Any]()
    if resume is not None:
        begun = _begun(Path(resume))
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
        engine.check_names(variant)
    where = (
        Path(output)
        if output
        else new_dir(Path("runs") / f"compare-{model.replace('/', '_')}-{base.data_name}")
    )
    go_on = f"accuracy-booster compare --resume {shlex.quote(str(where))}"
    if resume is not None and "data" not in moved:
        check_place(where, base.data)
    data = engine.open_data_anew(base) if now else engine.open_data(base, hold_out="rows")
    variants = [engine.fill_in(variant, data) for variant in variants]
    for variant in variants:  # a block or weights that do not fit are told before the first run
        network = engine.build_network(variant)
        if variant.weights is not None:
            start_from_weights(network, variant)
    # absolute paths, so that it can go on from everywhere
    places = {name: getattr(variants[0], name) for name in ("data", "data_dir", "weights")}
    options = {**options, **{name: places[name] for name in places if options.get(name)}}
    given = {"model": model, "blocks": names, "seeds": seeds, "options": options, BLOCKS: version}
    given |= {"hold_out": "names"} if now else {}
    write(where / BEGUN, (json.dumps(given, indent=1) + "\n").encode())
    runs = []
    with bars() as progress:
        total = progress.add_task(
            "Comparing", total=seeds * len(blocks), note=f"{model} on {base.data}"
        )
        for seed in range(base.seed, base.seed + seeds):
            for folder, variant in zip(_folders(names), variants, strict=True):
                config = variant.change({"seed": seed, "output": str(where / f"{folder}-s{seed}")})
                label = f"{config.block}, seed {seed}"
                run = _run(config, data.reseed(seed), progress, label, go_on, resume is not None)
                progress.console.print(f"{label}: top-1 {run.test.top1:.2f} %, {run.seconds:.0f} s")
                progress.advance(total)
                runs.append(run)
        progress.update(total, note="measuring inference")
        rows = _rows(blocks, runs)
    page = where / "report.html"
    result = Comparison(rows, page, time.perf_counter() - start, runs)
    report.write_comparison(page, result)
    (where / "results.json").write_text(json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def _begun(where: Path) -> dict[str, Any]:
    """What the comparison in a directory was begun with."""
    try:
        return json.loads((where / BEGUN).read_text())
    except (OSError, ValueError) as e:
        found = "damaged" if (where / BEGUN).exists() else f"no {BEGUN}"
        raise ValueError(f"{where} holds no comparison to go on with ({found})") from e


def _run(
    config: TrainConfig, data: Data, progress: Any, label: str, go_on: str, resume: bool
) -> TrainResult:
    """One run of a comparison: begun, gone on with, or taken as it ended."""
    run = None
    if resume and (Path(str(config.output)) / CONFIG).exists():
        places = {name: getattr(config, name) for name in ("output", "data", "data_dir")}
        run, config = Run.open(Path(str(config.output)), ended=False)
        config = config.change(places)
        if run.ended:
            return result_of(run, config)
        check_same(run, config, data)
    return run_training(config, data, progress, label, lines=False, run=run, go_on=go_on)


def _folders(blocks: Sequence[str]) -> list[str]:
    return [b if b.isidentifier() else f"recipe{i}" for i, b in enumerate(blocks, start=1)]


def _rows(blocks: Sequence[str], runs: list[TrainResult]) -> list[Row]:
    of = {block: [run for run in runs if run.config.block == block] for block in blocks}
    networks = {block: engine.load_network(rs[0].output, rs[0].config) for block, rs in of.items()}
    size = runs[0].config.input_size
    ms = latency(networks, size, batch_size=BATCH)
    rows = []
    for block, members in of.items():
        top1 = [run.test.top1 for run in members]
        cost = complexity(networks[block], size)
        spread = stdev(top1) if len(top1) > 1 else None
        rows.append(Row(block, top1, mean(top1), spread, cost.parameters, cost.macs, ms[block]))
    return rows
