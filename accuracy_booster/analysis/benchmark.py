"""What re-calibration costs in time and memory, against the unboosted network treated alike.

The variants of a case take turns within each round, and what counts is the ratio to the unboosted
network in the same round: a machine that is slow for a while is slow for both.
"""

# N batch, C channels, H W space

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from statistics import median, quantiles

import torch
import torch.nn.functional as F
from torch import nn

from accuracy_booster.analysis.memory import peak
from accuracy_booster.analysis.timings import PAPER, Bench, Case, Timing
from accuracy_booster.errors import unknown
from accuracy_booster.fastpath import compile_for_inference, fast_path, fold, fuse
from accuracy_booster.fastpath.compiled import Frozen
from accuracy_booster.models import create_model
from accuracy_booster.ops import keep_freed_memory
from accuracy_booster.ops.batch_norm import BatchNorms
from accuracy_booster.progress import bars
from accuracy_booster.surgery.examples import infer_examples
from accuracy_booster.training.engine import device_named

BLOCKS = ("none", "se", "eca", "cbam", "ab", "ab_plus")
MODES = {
    "infer": "inference in eval mode without gradients; ours is ab.fold",
    "train": "a training step: forward, loss, backward, SGD; ours is ab.fuse",
}
PATHS = ("naive", "ours")
FEWEST = 3  # rounds, however little time there is


def bench(
    model: str = "resnet50",
    *,
    blocks: Sequence[str] = BLOCKS,
    modes: Sequence[str] = ("infer", "train"),
    batch_sizes: Sequence[int] = (1, 16),
    compile: Sequence[bool] = (False, True),
    paths: Sequence[str] = PATHS,
    rounds: int = 10,
    seconds: float | None = None,
    input_size: tuple[int, int, int] | None = None,
    device: str = "auto",
) -> Bench:
    """Time a network with each block, as it is and folded or fused, and without a block.

    Training takes batches of 2 and more: smaller ones are left out there. On the CPU the network is
    in the channels-last format and freed memory is kept (`ops.keep_freed_memory`), for all
    variants. Compiled inference is `ab.compile_for_inference` for all, which freezes the weights
    and checks in a profile that they are. Each round has the variants in another order.

    Args:
        model: the network (`ab.create_model`).
        blocks: recipes; "none" is always measured.
        modes: of "infer" and "train".
        batch_sizes: images in a batch.
        compile: False for eager, True for `torch.compile`.
        paths: of "naive" and "ours".
        rounds: how often each variant runs, after two runs to warm up.
        seconds: no round starts later than this after a case's first one, but three are run.
        input_size: (C, H, W) of an image; by default the network's usual.
        device: "auto", "cpu" or "cuda".

    Raises:
        ValueError: for unknown names, numbers below 1, a device that is not here, or an unboosted
            network that is slower than it need be (`fastpath.compiled.check`).
    """
    cases, where = _checked(modes, batch_sizes, compile, paths, rounds, device)
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds={seconds!r} must be > 0")
    blocks = tuple(dict.fromkeys(["none", *blocks]))
    if where.type == "cpu":
        keep_freed_memory()
    base = create_model(model)
    channels, height, width = input_size or infer_examples(base)[0].shape[1:]
    size = (channels, height, width)
    for block in blocks:  # names and sizes are checked before anything takes long
        with torch.device("meta"):
            _create(model, block, size)
    variants = list(itertools.product(paths, blocks))
    rows: list[Timing] = []
    with bars() as progress:
        task = progress.add_task(
            f"bench {model}", total=len(cases) * (len(variants) + rounds), note=""
        )
        for case in cases:
            progress.update(task, note=str(case))
            rows += _case(
                *(case, model, size, variants, rounds, seconds, where),
                lambda: progress.advance(task),
            )
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else processor()
    threads = torch.get_num_threads()
    return Bench(model, size, name, threads, rounds, torch.__version__, rows)


def _checked(
    modes: Sequence[str],
    batch_sizes: Sequence[int],
    compile: Sequence[bool],
    paths: Sequence[str],
    rounds: int,
    device: str,
) -> tuple[list[Case], torch.device]:
    for names, known, kind in ((modes, MODES, "mode"), (paths, PATHS, "path")):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)
    for what, number in [("rounds", rounds), *(("batch_sizes", n) for n in batch_sizes)]:
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{what}: {number!r} must be a whole number >= 1")
    found = device_named(device)
    cases = [
        Case(mode, batch, compiled)
        for mode, batch, compiled in itertools.product(modes, batch_sizes, compile)
        if mode == "infer" or batch > 1  # a gate's norm sees no spread in one image
    ]
    if not (cases and paths):
        raise ValueError(
            f"nothing to measure: modes={list(modes)}, batch_sizes={list(batch_sizes)}, "
            f"compile={list(compile)}, paths={list(paths)} (training takes batches of 2 and more)"
        )
    return cases, found


def _create(model: str, block: str, size: tuple[int, ...]) -> nn.Module:
    channels, height, width = size
    return create_model(model, block=block, in_chans=channels, input_size=(channels, height, width))


def _case(
    case: Case,
    model: str,
    size: tuple[int, ...],
    variants: list[tuple[str, str]],
    rounds: int,
    seconds: float | None,
    device: torch.device,
    advance: Callable[[], None],
) -> list[Timing]:
    x = torch.randn(case.batch_size, *size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    runs: dict[tuple[str, str], Callable[[], None]] = {}
    found: dict[tuple[str, str], tuple[tuple[int, int], Frozen | None]] = {}
    memory: dict[tuple[str, str], int] = {}
    times: dict[tuple[str, str], list[float]] = {variant: [] for variant in variants}
    torch._dynamo.reset()
    with _many_compiled():
        for path, block in variants:
            torch.manual_seed(0)
            network = _create(model, block, size).to(device)
            network = network.to(memory_format=torch.channels_last)
            run, places, frozen = _prepared(case, network, path, block, x)
            found[path, block] = (places, frozen)
            for _ in range(2):
                run()
            memory[path, block] = peak(run, device)
            runs[path, block] = run
            advance()
        gc.collect()
        orders, begin = random.Random(0), time.perf_counter()
        for done in range(rounds):
            late = seconds is not None and time.perf_counter() - begin > seconds
            if late and done >= FEWEST:
                break
            for variant in orders.sample(variants, len(variants)):
                run = runs[variant]
                _wait(device)
                start = time.perf_counter()
                run()
                _wait(device)
                times[variant].append(1e3 * (time.perf_counter() - start))
            advance()
    return [_timing(case, model, v, times, memory, *found[v]) for v in variants]


@contextlib.contextmanager
def _many_compiled() -> Iterator[None]:
    """Let the variants, which share their code, all stay compiled side by side."""
    with torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=1024):
        yield


def _prepared(
    case: Case, network: nn.Module, path: str, block: str, x: torch.Tensor
) -> tuple[Callable[[], None], tuple[int, int], Frozen | None]:
    """What runs one batch, how many places took the fast path, and what the compiler froze."""
    if case.mode == "infer":
        network = network.eval()
        sums = case.compile and block == "none" and _has_sums(network, x)
        if path == "ours":
            network = fold(network, example=x)
    elif path == "ours":
        fuse(network, example=x[:1])
    places = (0, 0)
    if path == "ours":
        report = fast_path(network)
        places = (report.taken, len(report.places))
    if case.mode == "infer":
        if case.compile:
            compiled = compile_for_inference(network, x, sums=sums)
            return lambda: compiled(x), places, compiled.frozen

        def infer() -> None:
            with torch.no_grad():
                network(x)

        return infer, places, None
    return _step(network.train(), x, case.compile), places, None


def _has_sums(network: nn.Module, x: torch.Tensor) -> bool:
    """Whether branches end in a convolution and its norm, so that one operator can add them."""
    return fast_path(fuse(copy.deepcopy(network), example=x[:1])).taken > 0


def _step(network: nn.Module, x: torch.Tensor, compile: bool) -> Callable[[], None]:
    """A training step as the trainer's."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, fused=True)
    forward = torch.compile(network, dynamic=False) if compile else network
    parallel_norms = compile and x.device.type == "cpu"
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with BatchNorms() if parallel_norms else contextlib.nullcontext():
            logits = forward(x)
        F.cross_entropy(logits, labels).backward()
        optimizer.step()

    return step


def _timing(
    case: Case,
    model: str,
    variant: tuple[str, str],
    times: dict[tuple[str, str], list[float]],
    memory: dict[tuple[str, str], int],
    places: tuple[int, int],
    frozen: Frozen | None = None,
) -> Timing:
    path, block = variant
    alike = (path, "none")
    naive = ("naive", "none") if ("naive", "none") in times else alike
    ratios = [a / b for a, b in zip(times[variant], times[alike], strict=True)]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Timing(
        **asdict(case),
        block=block,
        path=path,
        milliseconds=median(times[variant]),
        ratio=median(ratios),
        low=low,
        high=high,
        ratio_naive=median(a / b for a, b in zip(times[variant], times[naive], strict=True)),
        memory=memory[variant],
        memory_ratio=memory[variant] / max(1, memory[alike]),
        fast=places[0],
        places=places[1],
        rounds=len(ratios),
        frozen=asdict(frozen) if frozen else None,
        paper=PAPER.get(block) if model == "resnet50" and case.mode == "infer" else None,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def processor() -> str:
    """The name of the processor's model, as the system knows it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
