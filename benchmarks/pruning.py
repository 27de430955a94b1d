"""Are gates a good signal for pruning? A trained run, pruned by each criterion: docs/pruning.md.

python benchmarks/pruning.py RUN --data-dir D --output benchmarks/pruning.json
       [--keep 0.9,0.75,0.5] [--of outputs,inner] [--by gates,magnitude,...] [--seeds 3]
       [--images N] [--test-images N] [--finetune] [--epochs 1] [--lr 0.01]
python benchmarks/pruning.py --table --output benchmarks/pruning.json   # prints what is there

Each row is one pruned network: its top-1 on the test set at once; after its norms have taken their
statistics anew from `--images` augmented training images; and, with --finetune, after `--epochs`
epochs more of training (SGD with the run's momentum and weight decay, cosine from --lr to 0, the
run's augmentation and order of images). The mean weights of the gates are those over the first
`--images` images of the training set: no test image decides what is removed. Criteria that draw
lots have a row for each seed. The first row is the whole network, treated in the same way.

The JSON gets each row as it ends. The same command again makes the rows that are missing; a JSON of
other settings is refused.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

import accuracy_booster as ab
from accuracy_booster.data import Data, normalise
from accuracy_booster.data.worker_errors import worker_faults
from accuracy_booster.files import read_json, write_json
from accuracy_booster.inspection.batches import Inputs
from accuracy_booster.inspection.opened_networks import gates_of, inputs_of
from accuracy_booster.progress import note
from accuracy_booster.pruning import pruned_channels
from accuracy_booster.pruning.channels import OF
from accuracy_booster.pruning.criteria import CRITERIA
from accuracy_booster.tables import Table
from accuracy_booster.training.opening_data import open_data
from accuracy_booster.training.opening_to_measure import Opened, open_measured
from accuracy_booster.training.optimizer import make_optimizer

KEY = ("of", "by", "keep", "seed")
WHOLE = ("none", "none", 1.0, 0)


@dataclass(frozen=True)
class Setting:
    """What all rows of a file have in common."""

    opened: Opened
    training: Data
    test: list[Inputs]
    images: int
    epochs: int  # 0 without fine-tuning
    lr: float
    steps: int | None  # of fine-tuning, for a trial; None for all of its epochs

    @property
    def size(self) -> tuple[int, int, int]:
        return (self.training.in_chans, *self.training.image_size)

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Augmented, normalised images [N, C, H, W] and labels [N] of an epoch after the run's."""
        data, after = self.training, self.opened.config.epochs
        device = self.opened.accelerator.device
        for batch in data.loaders["train"].batches(after + epoch, device=device):
            yield normalise(batch.images, data.mean, data.std), batch.labels


@torch.no_grad()
def top1(network: nn.Module, test: list[Inputs]) -> float:
    """In %, in eval mode."""
    network.eval()
    hits = sum(int((network(*b.args).argmax(1) == b.labels).sum()) for b in test)
    return 100 * hits / sum(b.count for b in test)


def with_new_statistics(network: nn.Module, setting: Setting) -> nn.Module:
    """A copy whose norms, also the gates', have statistics of augmented training images alone."""
    network = copy.deepcopy(network)
    steps = math.ceil(setting.images / setting.training.loaders["train"].batch_size)
    update_bn(itertools.islice(setting.batches(0), steps), network)
    return network


def finetuned(network: nn.Module, setting: Setting) -> nn.Module:
    """A copy after some epochs of training, the same for every network."""
    network = copy.deepcopy(network).train()
    config = setting.opened.config.change({"lr": setting.lr})
    optimizer = make_optimizer(network, config)
    per_epoch = len(setting.training.loaders["train"])
    steps = setting.steps or setting.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = itertools.chain.from_iterable(map(setting.batches, range(setting.epochs)))
    for images, labels in itertools.islice(batches, steps):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        schedule.step()
    return network


def measured(network: nn.Module, setting: Setting) -> dict[str, Any]:
    """One row's numbers."""
    start = time.perf_counter()
    torch.manual_seed(0)
    cost = ab.complexity(network, input_size=setting.size)
    row = {"parameters": cost.parameters, "macs": cost.macs, "top1": top1(network, setting.test)}
    network = with_new_statistics(network, setting)
    row["top1_norms"] = top1(network, setting.test)
    if setting.epochs:
        row["top1_finetuned"] = top1(finetuned(network, setting), setting.test)
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def asked(options: argparse.Namespace) -> list[tuple[str, str, float, int]]:
    """The keys of the rows that are asked for: what is done at once first, least pruned first."""
    rows = [WHOLE]
    shares = sorted({float(share) for share in options.keep.split(",")}, reverse=True)
    for of, keep, by in itertools.product(options.of.split(","), shares, options.by.split(",")):
        seeds = range(options.seeds if by == "random" else 1)
        rows += [(of, by, keep, seed) for seed in seeds]
    return rows


def open_setting(options: argparse.Namespace) -> tuple[Setting, Any]:
    """The run, its data, and the mean weights of its gates."""
    where = {"data_dir": options.data_dir} if options.data_dir else {}
    opened = open_measured(options.run, split="train", **where)
    config, run = opened.config, opened.run
    test = list(inputs_of(open_measured(options.run, split="test", **where), options.test_images))
    training = open_data(
        config,
        splits=("train",),
        training=True,
        classes=run.info["classes"],
        hold_out=run.hold_out,
    )
    epochs = options.epochs if options.finetune else 0
    setting = Setting(opened, training, test, options.images, epochs, options.lr, options.steps)
    note(f"mean weights over {options.images:,} training images")
    return setting, gates_of(opened, options.images)


def about(setting: Setting) -> dict[str, Any]:
    """What decides the numbers of a file; rows of other values must not be mixed in."""
    config = setting.opened.config
    names = ("model", "block", "seed", "epochs", "batch_size", "augment")
    return {
        "run": {name: getattr(config, name) for name in names} | {"data": config.data_name},
        "weights": setting.opened.run.info.get("fingerprint"),
        "images": setting.images,
        "test_images": sum(b.count for b in setting.test),
        "finetune": {"epochs": setting.epochs, "lr": setting.lr, "steps": setting.steps}
        if setting.epochs
        else None,
        "torch": torch.__version__,
        "device": setting.opened.accelerator.device.type,
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table of a file: rows that differ by their seed alone are one, with their range."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["of"], row["keep"], row["by"]), []).append(row)
    names = [n for n in ("top1", "top1_norms", "top1_finetuned") if n in rows[0]]

    def cell(members: list[dict[str, Any]], name: str) -> str:
        values = sorted(row[name] for row in members)
        mean = sum(values) / len(values)
        more = f" [{values[0]:.2f}, {values[-1]:.2f}]" if len(values) > 1 else ""
        return f"{mean:.2f}{more}"

    table = [
        [of, f"{keep:g}", by, f"{m[0]['parameters']:,}", f"{m[0]['macs']:,}"]
        + [cell(m, name) for name in names]
        for (of, keep, by), m in groups.items()
    ]
    print(*Table(["of", "keep", "by", "parameters", "MACs", *names], table).lines(), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--data-dir")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--keep", default="0.9,0.75,0.5")
    parser.add_argument("--of", default=",".join(OF))
    parser.add_argument("--by", default=",".join(CRITERIA))
    parser.add_argument("--seeds", type=int, default=3, help="of criteria that draw lots")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, help="for a trial: the first so many only")
    parser.add_argument("--finetune", action="store_true")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--steps", type=int, help="for a trial: so many steps of fine-tuning")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    old = read_json(options.output) if options.output.exists() else {"rows": []}
    if options.table:
        return print_rows(old["rows"])
    if options.run is None:
        parser.error("name a run, or print a file with --table")
    for kind, names, known in (("of", options.of, OF), ("by", options.by, CRITERIA)):
        if wrong := set(names.split(",")) - set(known):
            parser.error(f"--{kind} knows {', '.join(known)}, not {', '.join(sorted(wrong))}")
    with worker_faults():
        setting, gates = open_setting(options)
        value = {"about": about(setting), "rows": old["rows"]}
        if old["rows"] and old["about"] != value["about"]:
            differ = [k for k, v in value["about"].items() if old["about"].get(k) != v]
            parser.error(f"{options.output} has other {', '.join(differ)}; give another --output")
        done = {tuple(row[key] for key in KEY) for row in old["rows"]}
        missing = [key for key in asked(options) if key not in done]
        size = torch.zeros(1, *setting.size)
        for number, (of, by, keep, seed) in enumerate(missing, start=1):
            network, kept = setting.opened.network, {}
            if of != "none":
                network = ab.prune(
                    network, keep, by=by, of=of, gates=gates, example=size, seed=seed
                )
                kept = {name: len(places) for name, places in pruned_channels(network).items()}
            row = {"of": of, "by": by, "keep": keep, "seed": seed, "kept": kept}
            value["rows"].append({**row, **measured(network, setting)})
            write_json(options.output, value)
            new = value["rows"][-1]
            accuracies = [f"{new[n]:.2f}" for n in new if n.startswith("top1")]
            note(
                f"{number} of {len(missing)}: {of}, keep {keep:g}, {by}, seed {seed}: top-1 "
                f"{' -> '.join(accuracies)} %, {new['seconds']:.0f} s"
            )
    print_rows(value["rows"])


if __name__ == "__main__":
    main()
