"""The command that trains a network: train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import (
    OWN_NETWORK,
    add_training,
    also_blocks_argument,
    network_arguments,
    network_or_none,
    take_one_block,
    trained_value,
)
from accuracy_booster.training.train_config import TrainConfig

if TYPE_CHECKING:
    pass


def _train_arguments(parser: Parser) -> None:
    about = "the network: NAME, timm/NAME or torchvision/NAME (accuracy-booster models)"
    network_arguments(parser, about=f"{about}; or {OWN_NETWORK}")
    add_training(parser)
    also_blocks_argument(parser)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="read the data, build the network, take a few steps, print what the training would "
        "be (steps, images left out, memory, time) and stop; nothing is written",
    )
    parser.add_class_arguments(TrainConfig, skip={"model"})


def _train(given: dict[str, Any]) -> Result:
    from accuracy_booster.training import resolve, train
    from accuracy_booster.training.measuring import tells_top5
    from accuracy_booster.training.run_files import REPORT
    from accuracy_booster.training.train_result import kept_in_words

    take_one_block(given, "train")
    name = network_or_none(given)
    if not name and not given.get("resume"):
        raise ValueError("name a network, with NAME or --model NAME, or a run with --resume RUN")
    if given.pop("print_config", False):
        if not name:
            raise ValueError("name a network to see its settings; a run's are in RUN/config.yaml")
        config = resolve(name, **given)
        return None, lambda: say(
            "# the data decide what is null or auto here; train --dry_run shows that too",
            *config.to_yaml().splitlines(),
        )
    if given.pop("dry_run", False):
        tried = train(name, dry_run=True, **given)
        return tried.to_dict(), lambda: say(*tried.lines())
    result = train(name, **given)
    value = trained_value(result)

    def show() -> None:
        test, epochs = result.test, result.epochs_done
        top5 = f", top-5 {test.top5:.2f} %" if tells_top5(result.config.num_classes) else ""
        say(
            f"top-1 {test.top1:.2f} % (error {test.top1_error:.2f} %){top5} "
            f"on {test.images:,} test images after {epochs} epoch{'s'[: epochs > 1]}"
            f"{kept_in_words(result.kept_epoch, result.best_epoch)}, {result.seconds:.0f} s, "
            f"{result.parameters:,} parameters"
        )
        if (page := result.output / REPORT).is_file():
            say(page)
        say(result.output)

    return value, show


COMMANDS = {
    "train": Command(
        "Train a network with or without a block.",
        "accuracy-booster train resnet56 --block ab --data cifar100 --epochs 200",
        _train_arguments,
        _train,
    ),
}
