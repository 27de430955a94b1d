"""`ab.compare`: train one network with several blocks and seeds, and put the results together."""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import nn

from accuracy_booster.analysis.choices import COMPARED_BLOCKS
from accuracy_booster.analysis.comparison_folder import (
    REPORT,
    RESULTS,
    check_can_begin,
    read_latencies,
    run_names,
)
from accuracy_booster.analysis.comparison_report import write_comparison
from accuracy_booster.analysis.comparison_request import Request, request_in, write_request
from accuracy_booster.analysis.comparison_results import LATENCY_BATCH, Comparison, Row
from accuracy_booster.analysis.cost import complexity
from accuracy_booster.analysis.measuring import latency
from accuracy_booster.data import Data
from accuracy_booster.errors import Diverged, TrainingInterrupted, TrainingStopped
from accuracy_booster.files import write_json
from accuracy_booster.models.own_networks import is_own
from accuracy_booster.progress import bars, note
from accuracy_booster.training import (
    TrainConfig,
    TrainResult,
    new_dir,
    resolve,
    run_training,
)
from accuracy_booster.training.advice import advice
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.identity import differences
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.keeping import check_keep
from accuracy_booster.training.network_building import (
    build_network,
    check_has_no_gates,
    check_network_and_block,
)
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.optimizer import check_optimizer
from accuracy_booster.training.output_directory import plain_name
from accuracy_booster.training.own_objects import OwnObjects, take_objects
from accuracy_booster.training.presets import told
from accuracy_booster.training.reopening_data import check_place, check_same
from accuracy_booster.training.run_directory import Run
from accuracy_booster.training.run_files import CONFIG
from accuracy_booster.training.trackers import check_trackers
from accuracy_booster.training.train_result import result_of

DEFAULT_MODEL, DEFAULT_SEEDS = "resnet14", 2
# settings that may differ between a resumed comparison and a run of it that exists
FREE_HERE = ("output", "overwrite", "data", "data_dir", "bad_images", "workers", "keep", "log_with")


def compare(
    model: str | nn.Module | Callable[..., nn.Module] | None = None,
    *,
    blocks: Sequence[str] | None = None,
    seeds: int | None = None,
    output: str | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> Comparison:
    """Train `model` with each block and seed, and write one HTML report.

    The networks of one seed start from the same base weights and see the same images in the same
    order. Accuracy is that of the last epoch, or of the best one on a validation split (`keep`).

    A training that diverges is a result: its row says so, and the other trainings go on.

    Args:
        model: the network's name, by default resnet14; or a network of your own, as for
            `ab.train`, without gates. To resume such a comparison, give it again.
        blocks: names or texts of blocks, or "none" for the network without a block; by default
            none, se, ab and ab_plus. The others are compared with "none", or else with the first.
        seeds: how many, by default 2; they count up from `seed`.
        output: the directory of the runs and the report; by default a new one under `runs/`.
        resume: the directory of a comparison to go on with, as it was begun; `data` and `data_dir`
            may then be the new place of its data. Larger `seeds` and further `blocks` add runs to
            it, and larger `epochs` make all its runs longer, once they have ended.
        options: any other field of `ab.TrainConfig`, for all runs alike.

    Raises:
        ValueError: for anything that `ab.train` refuses, before the first run starts.
        TrainingStopped: if every training diverged, or one stopped for another reason.
    """
    start = time.perf_counter()
    named, options, own = take_objects(model, options)
    if resume is None:
        given = COMPARED_BLOCKS if blocks is None else blocks
        many = DEFAULT_SEEDS if seeds is None else seeds
        request = Request(named or DEFAULT_MODEL, given, many, options)
    else:
        request = request_in(Path(resume), options, blocks=blocks, seeds=seeds)
        output = str(resume)
        if own.network is not None and not is_own(request.model):
            raise ValueError(
                f"the comparison in {resume} is of {request.model}, which its name makes; leave "
                "out model"
            )
    request.check()
    base = resolve(request.model, trained=own.trained, **request.options)
    variants = [base.change({"block": block}) for block in request.current_blocks()]
    for variant in variants:
        check_network_and_block(variant, own)
    check_optimizer(base)
    check_trackers(base)
    folder = (
        Path(output)
        if output
        else new_dir(Path("runs") / f"compare-{plain_name(request.model)}-{base.data_name}")
    )
    if resume is None:
        check_can_begin(folder, base.overwrite)
    elif not request.data_moved and own.data is None:
        check_place(folder, base.data)
    by_names = request.holds_out_by_names
    data = open_data_of_new_run(base, own) if by_names else open_data(base, own, hold_out="rows")
    check_has_no_gates(own)
    lines = list[str]()
    variants = [fill_in(variant, data, own, lines.append) for variant in variants]
    for line in dict.fromkeys(lines):  # what holds for several blocks is said once
        note(line)
    check_keep(variants[0], data.loaders)
    if not request.options.get("preset"):
        note(told(variants[0]))
    if resume is None:
        for line in advice(variants[0], data, trained=own.trained):
            note(line)
    for variant in variants:
        _check_can_start(variant, own, say=variant is variants[0])
    configs = _configs(request, variants, base.seed, folder)
    identity = write_request(request, variants[0], configs, folder)
    resume_command = f"accuracy-booster compare --resume {shlex.quote(str(folder))}"
    with _telling(resume_command), bars() as progress:
        about = f"{request.model} on {base.data}"
        task = progress.add_task("Comparing", total=len(configs), note=about)
        runs, diverged = list[TrainResult](), dict[str, dict[int, str]]()
        for config in configs:
            label = f"{config.block}, seed {config.seed}"
            try:
                run = _train(config, data, own, progress, label, resume_command, request)
            except Diverged as e:
                diverged.setdefault(config.block, {})[config.seed] = str(e)
                progress.console.print(f"{label}: diverged, {e}")
            else:
                runs.append(run)
                said = f"top-1 {run.test.top1:.2f} %, {run.seconds:.0f} s"
                progress.console.print(f"{label}: {said}")
            progress.advance(task)
        if not runs:
            first = next(reason for found in diverged.values() for reason in found.values())
            raise TrainingStopped(f"every training of the comparison diverged; the first: {first}")
        weights = {run.output.name: run.weights_sha256 for run in runs}
        known = read_latencies(folder, identity, weights, LATENCY_BATCH)
        progress.update(task, note="measuring inference")
        rows = _rows(variants, runs, diverged, own, known)
    page = folder / REPORT
    seconds = time.perf_counter() - start
    result = Comparison(rows, page, seconds, runs, id=identity, lengthened=list(request.lengthened))
    write_comparison(page, result)
    write_json(folder / RESULTS, result.to_dict())
    return result


@contextlib.contextmanager
def _telling(resume_command: str) -> Iterator[None]:
    """Within it, Ctrl-C between and after the trainings says how the comparison goes on."""
    try:
        yield
    except KeyboardInterrupt as e:
        raise TrainingInterrupted(
            f"stopped by SIGINT; the runs that have ended stay; go on with: {resume_command}",
            signal.SIGINT,
        ) from e


def _check_can_start(config: TrainConfig, own: OwnObjects, *, say: bool) -> None:
    """Raise ValueError for a block that does not fit the network, or weights that do not."""
    network = build_network(config, own, say=say)
    if config.weights is not None:
        start_from_weights(network, config)


def _configs(
    request: Request, variants: Sequence[TrainConfig], first_seed: int, folder: Path
) -> list[TrainConfig]:
    """The settings of each run, seed by seed, in the order in which they are trained."""
    return [
        variant.change({"seed": seed, "output": str(folder / f"{name}-s{seed}")})
        for seed in range(first_seed, first_seed + request.seeds)
        for name, variant in zip(run_names(request.blocks), variants, strict=True)
    ]


def _train(
    config: TrainConfig,
    data: Data,
    own: OwnObjects,
    progress: Any,
    label: str,
    resume_command: str,
    request: Request,
) -> TrainResult:
    """One run of a comparison: trained from the start, resumed, or read if it has finished.

    Raises:
        Diverged: if it diverges, or did so before.
        ValueError: if the run in its folder is not one of this comparison.
    """
    run, data, begun = None, data.reseed(config.seed), request.begun
    if begun and (Path(str(config.output)) / CONFIG).exists():
        run, stored = Run.open(Path(str(config.output)), ended=False)
        free = (*FREE_HERE, *["epochs"] * (stored.epochs in request.lengthened))
        if "id" in begun and (other := differences(stored, config, *free)):
            raise ValueError(
                f"the run in {run.path} is not of this comparison: it has {other}; move it away, "
                "and --resume trains it anew"
            )
        config = stored.change({name: getattr(config, name) for name in free})
        check_same(run, config, data)
        if run.info.get("diverged"):
            raise Diverged(run.info["diverged"])
        state = run.state(stored.epochs, thorough=True)
        if state == "finished" and stored.epochs == config.epochs:
            return result_of(Classification, run, config)
        if state not in ("finished", "stopped"):
            note(f"the run in {run.path} is damaged: {state}")
    # {}: nothing is known, and what the network changes was said when the comparison began
    known = {} if run is None else run.info.get("network", {})
    task = Classification(config, data, own, known)
    return run_training(task, progress, label, lines=False, run=run, resume_command=resume_command)


def _rows(
    variants: Sequence[TrainConfig],
    runs: Sequence[TrainResult],
    diverged: dict[str, dict[int, str]],
    own: OwnObjects,
    milliseconds: Mapping[str, float],
) -> list[Row]:
    """The results by block: accuracies, and what the network costs.

    Args:
        milliseconds: per image by block, which are measured if one is missing.
    """
    runs_of = {v.block: [run for run in runs if run.config.block == v.block] for v in variants}
    networks = {
        v.block: load_network(*Run.open(runs_of[v.block][0].output), own)
        if runs_of[v.block]
        else build_network(v, own)  # its cost does not depend on its weights
        for v in variants
    }
    size = variants[0].input_size
    if not set(networks) <= set(milliseconds):
        milliseconds = latency(networks, size, batch_size=LATENCY_BATCH)
    rows = []
    for block, members in runs_of.items():
        top1 = [run.test.top1 for run in members]
        cost = complexity(networks[block], size)
        rows.append(
            Row(
                block,
                top1,
                top1_mean=mean(top1) if top1 else None,
                top1_spread=stdev(top1) if len(top1) > 1 else None,
                parameters=cost.parameters,
                macs=cost.macs,
                ms_per_image=milliseconds[block],
                diverged=diverged.get(block, {}),
            )
        )
    return rows
