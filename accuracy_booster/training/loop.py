"""The one trainer: from a configuration to a run's directory."""

# N batch, C channels, H W space

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from accuracy_booster.data import Data, normalise
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.progress import bars
from accuracy_booster.training import engine
from accuracy_booster.training.config import TrainConfig, output_dir, resolve
from accuracy_booster.training.evaluation import Metrics, measure
from accuracy_booster.training.run import Run


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with: the metrics of the *last* epoch on the test set, never the best's."""

    output: Path
    config: TrainConfig
    test: Metrics
    parameters: int
    seconds: float
    history: list[dict[str, float]] = field(repr=False)


class Trainer:
    """The state of a run and its steps; `fit` runs them all."""

    def __init__(self, config: TrainConfig, data: Data):
        from accelerate.utils import set_seed

        self.config, self.data = config, data
        self.accelerator = engine.make_accelerator(config)
        set_seed(config.seed)
        network = engine.build_network(config, pretrained=config.pretrained)
        self.frozen_norms = engine.freeze(network, config)
        optimizer = engine.make_optimizer(network, config)
        self.schedule = engine.make_schedule(optimizer, config)
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.loaders = {k: self.accelerator.prepare(v) for k, v in data.loaders.items()}
        self.epoch = 0
        # however many random numbers the gates took, the images are augmented the same
        set_seed(config.seed)

    def train_epoch(self, on_batch: Callable[[], None]) -> dict[str, float]:
        """One pass over the training set; returns its mean loss, accuracy in %, and the rate."""
        self.network.train()
        for norm in self.frozen_norms:
            norm.training = False  # not eval(): a gate may be its child
        device = self.accelerator.device
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        seen, start, lr = 0, time.perf_counter(), self.optimizer.param_groups[0]["lr"]
        for images, labels in self.loaders["train"]:
            logits = self.network(normalise(images, self.data.mean, self.data.std))
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            self.accelerator.backward(loss)
            self.optimizer.step()
            loss_sum += loss.detach() * len(labels)
            correct += (logits.detach().argmax(1) == labels).sum()
            seen += len(labels)
            on_batch()
        self.schedule.step()
        self.epoch += 1
        loss_sum, correct, total = self.accelerator.reduce(
            torch.stack([loss_sum, correct, torch.tensor(float(seen), device=device)])
        ).tolist()
        if not math.isfinite(loss_sum):
            raise TrainingStopped(
                f"the training loss is {loss_sum / total:g} in epoch {self.epoch} at lr={lr:g}; "
                "no weights were written; try a lower lr, or a warm-up"
            )
        return {
            "lr": lr,
            "train_loss": loss_sum / total,
            "train_top1": 100 * correct / total,
            "images_per_second": total / (time.perf_counter() - start),
        }

    def measure(self, split: str) -> Metrics:
        return measure(self.network, self.loaders[split], self.data, self.accelerator)

    def fit(self, run: Run, progress: Any, label: str, *, lines: bool) -> Metrics:
        """Train every epoch, log each, write the weights, and measure the test set at the end.

        `lines` prints a lasting line per epoch beside the progress bar.
        """
        split = "validation" if "validation" in self.loaders else "test"
        epochs, steps = self.config.epochs, len(self.loaders["train"])
        task = progress.add_task(label, total=epochs * steps, note="")
        while self.epoch < epochs:
            start = time.perf_counter()
            row = self.train_epoch(lambda: progress.advance(task))
            metrics = self.measure(split)
            seconds = time.perf_counter() - start
            run.log(
                {
                    "epoch": self.epoch,
                    **row,
                    f"{split}_loss": metrics.loss,
                    f"{split}_top1": metrics.top1,
                    f"{split}_top5": metrics.top5,
                    "seconds": seconds,
                }
            )
            line = (
                f"epoch {self.epoch}/{epochs}  loss {row['train_loss']:.3f}  {split} top-1 "
                f"{metrics.top1:.2f} %  {row['images_per_second']:.0f} images/s"
            )
            progress.update(task, note=f"{split} top-1 {metrics.top1:.2f} %")
            if lines:
                progress.console.print(line)
        progress.remove_task(task)
        if self.accelerator.is_main_process:
            engine.save_network(self.accelerator.unwrap_model(self.network), run.path)
        return metrics if split == "test" else self.measure("test")


def train(model: str | TrainConfig, **options: Any) -> TrainResult:
    """Train a network, boosted or plain, and write a run's directory.

    Args:
        model: the network's name, or a whole `TrainConfig`.
        options: any field of `TrainConfig`: `block`, `data`, `epochs`, `seed`, `output`, ...

    Returns:
        The last epoch's metrics on the test set, the learning curve, and where the run is.

    Raises:
        ValueError: for anything in the configuration that is unknown, out of range, or does not
            fit the data. Nothing is written then.
    """
    config = model.change(options) if isinstance(model, TrainConfig) else resolve(model, **options)
    engine.check_names(config)
    output = output_dir(config)
    Run.check(output, config.overwrite)
    data = engine.open_data(config)
    config = engine.fill_in(config.change({"output": str(output)}), data)
    with bars() as progress:
        return run_training(config, data, progress, config.model, lines=True)


def run_training(
    config: TrainConfig, data: Data, progress: Any, label: str, *, lines: bool
) -> TrainResult:
    """`train` for a configuration that is filled in, on data that are open, on a shared display."""
    start = time.perf_counter()
    trainer = Trainer(config, data)
    run = Run.create(
        Path(str(config.output)),
        config,
        {"classes": list(data.classes), "device": _device(trainer)},
    )
    test = trainer.fit(run, progress, label, lines=lines)
    run.close()
    network = trainer.accelerator.unwrap_model(trainer.network)
    parameters = sum(p.numel() for p in network.parameters())
    seconds = time.perf_counter() - start
    run.write_info({"test": test.to_dict(), "parameters": parameters, "seconds": seconds})
    return TrainResult(run.path, config, test, parameters, seconds, run.history())


def _device(trainer: Trainer) -> str:
    device = trainer.accelerator.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
