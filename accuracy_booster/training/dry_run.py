"""`train --dry_run`: read the data, build the network, take a few steps, and tell what is to come.

Nothing is written. The network takes real steps on real images, so that what would fail in a
training fails here.
"""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from accuracy_booster.data.batches import Loader
from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.progress import bars
from accuracy_booster.surgery import added_parameters
from accuracy_booster.surgery.gated import applied_gate
from accuracy_booster.training.advice import advice
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.keeping import decide_keep
from accuracy_booster.training.measuring import measure
from accuracy_booster.training.peak_memory import peak_memory
from accuracy_booster.training.repeatable import repeatable_convolutions
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.trainer import Trainer

TIMED = 5  # steps, after a first one that is not timed
PATIENCE = 10.0  # seconds after which no further step is timed


@dataclass(frozen=True)
class DryRun:
    """What a training would be, from a few of its steps.

    Attributes:
        config: the settings, completed from the data.
        parameters, gate_parameters: of the network with its gates, and of the gates alone.
        sites: the names of the modules that have a gate.
        images: {split: number of images}.
        classes: {class: number of training images}.
        dropped: training images that each epoch leaves out.
        steps_per_epoch, steps: of an epoch, and of the whole training.
        device: where the steps were taken.
        step_memory: bytes of tensors at the highest point of a step, above what is held between
            two steps.
        held_memory: bytes of the network's tensors and the optimizer's.
        load_seconds: to load one batch in one process.
        step_seconds: of one step on a batch that is loaded.
        eval_seconds: to load and measure one batch of `eval_batch_size` test images.
        seconds: an estimate for the whole training, without compilation.
        advice: the lines about the data and the settings, which were printed.
    """

    config: TrainConfig
    parameters: int
    gate_parameters: int
    sites: tuple[str, ...]
    images: dict[str, int]
    classes: dict[str, int]
    dropped: int
    steps_per_epoch: int
    steps: int
    device: str
    step_memory: int
    held_memory: int
    load_seconds: float
    step_seconds: float
    eval_seconds: float
    seconds: float
    advice: list[str] = field(repr=False)

    @property
    def output(self) -> Path:
        """The directory that the run would have."""
        return Path(str(self.config.output))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "output": str(self.output)}

    def lines(self) -> list[str]:
        """The result as aligned lines of text."""
        rows = list(self._rows())
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {text}" for name, text in rows]

    def _rows(self) -> Iterator[tuple[str, str]]:
        config = self.config
        chans, height, width = config.input_size
        gates = len(self.sites)
        yield "network", f"{config.model}, {self.parameters:,} parameters on {self.device}"
        if gates:
            named = ", ".join(self.sites[:3]) + ", ..." * (gates > 3)
            where = f" (where={config.where})" if hasattr(config, "where") else ""
            start = "the identity" if config.init == "identity" else f"init={config.init}"
            yield "block", f"{config.block}, from {start}"
            yield (
                "gates",
                f"{gates} with {self.gate_parameters:,} parameters, at {named}{where}",
            )
        else:
            yield "block", "none"
        if config.pretrained or config.weights:
            yield "weights", str(config.weights or f"those of {config.model}")
        images = ", ".join(f"{split} {count:,}" for split, count in self.images.items())
        yield "images", images
        few = [f"{name} {count:,}" for name, count in list(self.classes.items())[:5]]
        yield "classes", f"{len(self.classes)}: {', '.join(few)}{', ...' * (len(self.classes) > 5)}"
        stats = f"mean {_numbers(config.mean)}, std {_numbers(config.std)}"
        yield "input", f"{chans} x {height} x {width}, {stats}, augment {config.augment}"
        yield (
            "batches",
            (
                f"{config.batch_size:,} images: {_several(self.steps_per_epoch, 'step')} an epoch, "
                f"{self.steps:,} in {_several(config.epochs, 'epoch')}; each epoch leaves out "
                f"{_several(self.dropped, 'image')}"
            ),
        )
        yield (
            "time",
            (
                f"{_duration(self.step_seconds)} a step, {_duration(self.load_seconds)} to load a "
                f"batch (workers={config.workers}), {_duration(self.eval_seconds)} to "
                f"measure {min(config.eval_batch_size, self.images['test']):,} images"
            ),
        )
        yield "training", f"about {_duration(self.seconds)}, without compilation"
        held, peak = (f"{size / 2**20:,.0f} MiB" for size in (self.held_memory, self.step_memory))
        yield "memory", f"{held} for network and optimizer, {peak} more within a step"
        yield "output", f"{self.output} (nothing was written)"


def _numbers(values: Any) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'s'[: count != 1]}"


def _duration(seconds: float) -> str:
    """A time with two or three digits: 12 ms, 3.4 s, 5 min, 2.5 h."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def try_training(task: Classification) -> DryRun:
    """Try the training of a task whose data are open; nothing is written.

    Raises:
        ValueError: for a network that does not fit the data, or weights that do not.
        Diverged: if the loss of a first step is not finite.
        TrainingStopped: if images or memory are lacking.
    """
    config, loaders = task.config, task.data.loaders
    decide_keep(task)
    with bars() as progress, worker_faults():
        trainer = Trainer(task, say=progress.console.print)
        trainer.check_network()
        trainer.initialise()
        shown = progress.add_task("Trying the training", total=TIMED + 3, note="")
        with repeatable_convolutions(trainer.device):
            loading, stepping = list[float](), list[float]()
            batches = _batches(trainer)
            begin = time.perf_counter()
            for number in range(TIMED + 1):
                start = time.perf_counter()
                batch = next(batches)
                loaded = time.perf_counter()
                trainer.train_step(batch)
                progress.advance(shown)
                loading.append(loaded - start)
                stepping.append(time.perf_counter() - loaded)
                if number and time.perf_counter() - begin > PATIENCE:
                    break
            batch = next(batches)
            memory = peak_memory(lambda: trainer.train_step(batch), trainer.device)
            progress.advance(shown)
            measuring = _seconds_to_measure(trainer, task)
            progress.advance(shown)
    load, step = median(loading[1:]), median(stepping[1:])
    train = loaders["train"]
    count = len(train.dataset)
    per_step = max(step, load / config.workers) if config.workers else step + load
    # each epoch is measured, on the validation split where there is one, and then the test once
    each, last = ("validation", 1) if "validation" in loaders else ("test", 0)
    passes = config.epochs * len(loaders[each]) + last * len(loaders["test"])
    labels = train.dataset.images.labels.bincount(minlength=len(task.data.classes))
    return DryRun(
        config=config,
        parameters=sum(p.numel() for p in trainer.network.parameters()),
        gate_parameters=sum(p.numel() for p in added_parameters(trainer.network)),
        sites=tuple(
            name for name, module in trainer.network.named_modules() if applied_gate(module)
        ),
        images={split: len(loader.dataset) for split, loader in loaders.items()},
        classes=dict(zip(task.data.classes, labels.tolist(), strict=True)),
        dropped=count - len(train) * train.batch_size,
        steps_per_epoch=len(train),
        steps=config.epochs * len(train),
        device=str(trainer.device),
        step_memory=memory,
        held_memory=_held(trainer),
        load_seconds=load,
        step_seconds=step,
        eval_seconds=measuring,
        seconds=config.epochs * len(train) * per_step + passes * measuring,
        advice=advice(config, task.data, trained=task.own.trained),
    )


def _in_this_process(loader: Loader) -> Loader:
    """The same loader without processes of its own, so that loading can be timed."""
    alone = copy.copy(loader)
    alone.workers, alone._idle = 0, None
    return alone


def _batches(trainer: Trainer) -> Iterator[Any]:
    """Training batches of one epoch after the other, without end."""
    loader = _in_this_process(trainer.loaders["train"])
    share = {"rank": trainer.rank, "world": trainer.processes, "device": trainer.device}
    for epoch in itertools.count():
        yield from loader.batches(epoch, **share)


class _First:
    """The first batch of a loader, as all that it has."""

    def __init__(self, loader: Loader):
        self._loader, self.dataset = loader, loader.dataset

    def batches(self, epoch: int, **share: Any) -> Iterator[Any]:
        return itertools.islice(self._loader.batches(epoch, **share), 1)


def _seconds_to_measure(trainer: Trainer, task: Classification) -> float:
    """The seconds to load and measure a batch of test images, the better of two times."""
    first: Any = _First(_in_this_process(trainer.loaders["test"]))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        measure(trainer.state.kept_network, first, task.data, trainer.accelerator)
        times.append(time.perf_counter() - start)
    return min(times)


def _held(trainer: Trainer) -> int:
    """Bytes of the network's parameters and buffers, of the moving average and the optimizer."""
    networks: list[nn.Module] = [trainer.network]
    if trainer.state.average is not None:
        networks.append(trainer.state.average.module)
    tensors = [t for n in networks for t in (*n.parameters(), *n.buffers())]
    for state in trainer.state.optimizer.state.values():
        tensors += [value for value in state.values() if hasattr(value, "element_size")]
    return sum(t.numel() * t.element_size() for t in tensors)
