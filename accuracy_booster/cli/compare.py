"""The command that trains a network with several blocks and seeds: compare."""

from __future__ import annotations

from typing import Any

from accuracy_booster.analysis.choices import COMPARED_BLOCKS
from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import (
    OWN_NETWORK,
    blocks_argument,
    network_arguments,
    network_or_none,
    several_blocks,
)
from accuracy_booster.errors import shown
from accuracy_booster.training.train_config import TrainConfig

MAX_SEEDS = 1000


def _compare_arguments(parser: Parser) -> None:
    network_arguments(parser, about=f"the network, by default resnet14; or {OWN_NETWORK}")
    blocks_argument(parser, COMPARED_BLOCKS, "the blocks to compare")
    parser.add_argument("--seeds", type=int, default=2, help="how many, counting from --seed")
    parser.add_argument("--output", type=str | None, help="the directory of the runs and report")
    parser.add_argument(
        "--resume",
        type=str | None,
        help="go on with the comparison in this directory, as it was; --data if its data moved; "
        "larger --seeds, more --blocks or larger --epochs add to it",
    )
    parser.add_class_arguments(TrainConfig, skip={"model", "block", "output"})


def _compare(given: dict[str, Any]) -> Result:
    from accuracy_booster.analysis import compare

    if name := network_or_none(given):
        given["model"] = name
    if given.get("seeds", 1) > MAX_SEEDS:
        raise ValueError(f"seeds={shown(given['seeds'])} must be <= {MAX_SEEDS:,}")
    if "blocks" in given:
        given["blocks"] = several_blocks(given)
    may_change = {"resume", "data", "data_dir", "seeds", "blocks", "epochs"}
    may_change |= {"model"} if ":" in given.get("model", "") else set()  # a network of your own
    if given.get("resume") and (more := sorted(set(given) - may_change)):
        raise ValueError(
            "--resume goes on as it was begun, with more --seeds, --blocks or --epochs at most; "
            f"leave out --{', --'.join(more)}"
        )
    result = compare(**given)

    def show() -> None:
        print_table(*result.table())
        say(*result.caveats(), f"{result.seconds:.0f} s. Report:")
        say(result.report)

    return result.to_dict(), show


COMMANDS = {
    "compare": Command(
        "Train a network with several blocks and seeds; a table and an HTML report.",
        "accuracy-booster compare resnet14 --blocks none,se,ab,ab_plus --seeds 2",
        _compare_arguments,
        _compare,
    ),
}
