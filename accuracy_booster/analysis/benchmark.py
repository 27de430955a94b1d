"""`ab.bench`: what re-calibration costs in time and memory, against two unboosted networks."""

# N batch, C channels, H W space

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from accuracy_booster.analysis.benchmark_results import (
    SAME,
    STOCK,
    Bench,
    Case,
    Measured,
    Timing,
    Variant,
    timings,
)
from accuracy_booster.analysis.benchmark_steps import (
    PRECISIONS,
    Step,
    check_precision,
    make_network,
    make_step,
)
from accuracy_booster.analysis.choices import BENCHED_BLOCKS
from accuracy_booster.analysis.machine import this_machine
from accuracy_booster.analysis.measuring import calls_in_a_row, interleaved_times
from accuracy_booster.errors import unknown
from accuracy_booster.models import create_model
from accuracy_booster.ops import keep_freed_memory
from accuracy_booster.progress import bars
from accuracy_booster.surgery.examples import infer_examples
from accuracy_booster.surgery.skipping import Skip
from accuracy_booster.surgery.where import Where
from accuracy_booster.training.accelerator import device_named
from accuracy_booster.training.peak_memory import peak_memory

MODES = {
    "infer": "inference in eval mode without gradients; ours is ab.fold",
    "train": "a training step: forward, loss, backward, SGD; ours is ab.fuse",
}
PATHS = ("naive", "ours")
NO_VARIANCE = (
    "train, batch 1: the batch norm of a gate cannot train on one value per channel; give batches "
    "of 2 and more"
)


def bench(
    model: str | nn.Module = "resnet50",
    *,
    blocks: Sequence[str] = BENCHED_BLOCKS,
    against: Sequence[str] = (),
    where: Where = "residual",
    skip: Skip = None,
    modes: Sequence[str] = ("infer", "train"),
    batch_sizes: Sequence[int] = (1, 16),
    compile: Sequence[bool] = (False, True),
    paths: Sequence[str] = PATHS,
    rounds: int = 10,
    seconds: float | None = None,
    input_size: tuple[int, ...] | None = None,
    precision: str = "fp32",
    device: str = "auto",
) -> Bench:
    """Time a network with each block, as it is and folded or fused, against two opponents.

    Both opponents have no block. One is the network as people run it today: as it is, and where
    `compile` is set, under `torch.compile` with frozen weights. The other has the same treatment as
    a boosted network: `ab.fold` and `ab.compile_for_inference`, or in training `ab.fuse`. A row
    of a network with this treatment shows its ratio to both, any other row that to the first.

    The variants of a case are timed in turns in one process, and each is compared with the
    opponents in the same round. Training takes batches of 2 and more: batch 1 is left out there,
    and the result's `left_out` says so. On the CPU, freed memory is kept for reuse
    (`ops.keep_freed_memory`), for all variants. All networks are in the channels-last format. On
    the CPU a profile of both compiled opponents must show that every convolution is frozen and
    computes the residual sum and the ReLU after it, or nothing is printed. On a GPU compiled
    inference replays CUDA graphs. Where a batch takes less than 100 ms, a time is the mean of
    several in a row.

    Args:
        model: the network's name (`ab.create_model`), or a network of your own, which is copied.
        blocks: names or texts; "none" is always measured.
        against: names of other networks, which are timed as people run them today, in the same
            turns: what one would use instead.
        where, skip: the sites of the gates, as for `ab.boost`.
        modes: of "infer" and "train".
        batch_sizes: images in a batch.
        compile: False for eager, True for `torch.compile`.
        paths: of "naive" and "ours", for the networks with a block.
        rounds: how often each variant runs, after two runs to warm up.
        seconds: no round starts later than this after a case's first one, except for the first
            three.
        input_size: (C, H, W) of an image; by default the network's usual.
        precision: "fp32", "bf16" or "fp16". In 16 bits inference converts the network and the
            images, and training runs under autocast, with fp16 also with loss scaling.
        device: "auto", "cpu" or "cuda".

    Raises:
        ValueError: for unknown names, numbers below 1, a device that is not here, a precision that
            it does not have, or an opponent that is slower than torch can make it
            (`fastpath.opponent`).
    """
    cases, place = _checked(modes, batch_sizes, compile, paths, rounds, device, precision)
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds={seconds!r} must be > 0")
    blocks = tuple(dict.fromkeys(["none", *blocks]))
    if place.type == "cpu":
        keep_freed_memory()
    own = not isinstance(model, str)
    base = model if isinstance(model, nn.Module) else create_model(model)
    name = type(base).__name__ if own else str(model)
    size = tuple(input_size or infer_examples(base)[0].shape[1:])

    def make(variant: Variant) -> nn.Module:
        if variant.path == "rival":
            return make_network(variant.block, "none", size)
        return make_network(model, variant.block, size, where=where, skip=skip)

    boosted = [Variant(path, block) for path, block in itertools.product(paths, blocks)]
    rivals = [Variant("rival", rival) for rival in against]
    variants = list(dict.fromkeys([STOCK, SAME, *boosted, *rivals]))
    for variant in variants:  # names and sizes are checked before anything takes long
        with torch.device("cpu" if own else "meta"):
            make(variant)
    rows: list[Timing] = []
    with bars() as progress:
        task = progress.add_task(
            f"bench {name}", total=len(cases) * (len(variants) + rounds), note=""
        )

        def advance() -> None:
            progress.advance(task)

        for case in cases:
            progress.update(task, note=str(case))
            found = _measure(case, make, size, variants, rounds, seconds, place, advance)
            rows += timings(case, name, found)
    left_out = [NO_VARIANCE] if "train" in modes and 1 in batch_sizes else []
    return Bench(name, size, this_machine(place), rounds, rows, left_out)


def _checked(
    modes: Sequence[str],
    batch_sizes: Sequence[int],
    compile: Sequence[bool],
    paths: Sequence[str],
    rounds: int,
    device: str,
    precision: str,
) -> tuple[list[Case], torch.device]:
    """The cases to measure, and the device."""
    precisions = ([precision], PRECISIONS, "precision")
    for names, known, kind in ((modes, MODES, "mode"), (paths, PATHS, "path"), precisions):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)
    for what, number in [("rounds", rounds), *(("batch_sizes", n) for n in batch_sizes)]:
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{what}: {number!r} must be a whole number >= 1")
    found = device_named(device)
    check_precision(precision, found.type)
    cases = [
        Case(mode, batch, compiled, precision)
        for mode, batch, compiled in itertools.product(modes, batch_sizes, compile)
        if mode == "infer" or batch > 1  # see NO_VARIANCE
    ]
    if not (cases and paths):
        raise ValueError(
            f"nothing to measure: modes={list(modes)}, batch_sizes={list(batch_sizes)}, "
            f"compile={list(compile)}, paths={list(paths)} (training takes batches of 2 and more)"
        )
    return cases, found


def _measure(
    case: Case,
    make: Callable[[Variant], nn.Module],
    size: tuple[int, ...],
    variants: Sequence[Variant],
    rounds: int,
    seconds: float | None,
    device: torch.device,
    advance: Callable[[], None],
) -> dict[Variant, Measured]:
    """Measure the variants of a case.

    `make` makes a variant's network. `advance` is called for each variant and each round.
    """
    x = torch.randn(case.batch_size, *size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    steps: dict[Variant, Step] = {}
    memory: dict[Variant, int] = {}
    torch._dynamo.reset()
    with _many_compiled():
        for variant in variants:
            torch.manual_seed(0)
            network = make(variant).to(device)
            network = network.to(memory_format=torch.channels_last)
            steps[variant] = make_step(case, variant, network, x)
            memory[variant] = peak_memory(steps[variant].run, device, warm_up=2)
            advance()
        gc.collect()
        runs = {variant: step.run for variant, step in steps.items()}
        times = interleaved_times(
            runs,
            device,
            calls={variant: calls_in_a_row(run, device) for variant, run in runs.items()},
            rounds=rounds,
            seconds=seconds,
            after_round=advance,
        )
    return {
        variant: Measured(times[variant], memory[variant], step.fast, step.places, step.frozen)
        for variant, step in steps.items()
    }


@contextlib.contextmanager
def _many_compiled() -> Iterator[None]:
    """Let all variants stay compiled at once.

    They share their Python code, and by default torch compiles one piece of code only a few times.
    """
    with torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=1024):
        yield
