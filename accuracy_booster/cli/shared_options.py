"""Options that several commands share."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any

from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.words import split
from accuracy_booster.errors import shown
from accuracy_booster.training.setting_types import MAX_SIDE
from accuracy_booster.training.train_config import MAX_CHANNELS

OWN_NETWORK = "package.module:function or file.py:function of your own, which makes it"


def add_training(parser: Parser) -> None:
    """Add what every command that trains takes beside its settings."""
    parser.add_argument("--config", action="config", help="a YAML file, such as RUN/config.yaml")
    parser.add_argument(
        "--print_config", action="store_true", help="print the resolved settings as YAML and stop"
    )
    parser.add_argument(
        "--resume",
        type=str | None,
        help="go on with the run in this directory, as it was; --epochs N trains it longer, and "
        "--data PLACE names data that have moved",
    )


def trained_value(result: Any) -> dict[str, Any]:
    """The JSON value of a command that trains, from its `TrainResult`."""
    return {
        "output": str(result.output),
        "parameters": result.parameters,
        "seconds": result.seconds,
        "test": result.test.to_dict(),
        "epochs_done": result.epochs_done,
        "best_epoch": result.best_epoch,
        "kept_epoch": result.kept_epoch,
    }


def own_network_argument(parser: Parser) -> None:
    """Add --model to a command that takes a run, for a run of a network of the user's own."""
    parser.add_argument(
        "--model",
        type=str | None,
        help=f"the network, for a run that trained one of your own: {OWN_NETWORK}",
    )


def add_network_and_split(parser: Parser, split: str = "test") -> None:
    """Add what says which network of a run, and which images, a command measures."""
    own_network_argument(parser)
    parser.add_argument(
        "--data", type=str | None, help="other data, or a new place of the run's own"
    )
    parser.add_argument("--split", type=str, default=split, help="test, train or validation")


def add_measured(parser: Parser, split: str = "test") -> None:
    """Add the options of a command that measures a run on data."""
    add_network_and_split(parser, split)
    for name, kind, about in (
        ("eval_batch_size", int, "images per batch"),
        ("workers", int, "processes that load images"),
        ("device", str, "auto, cpu or cuda"),
        ("precision", str, "fp32, bf16 or fp16"),
        ("data_dir", str, "where cifar10 and cifar100 are, or timm's data sets"),
    ):
        parser.add_argument(f"--{name}", type=kind | None, help=f"{about}; by default the run's")


def network_arguments(parser: Parser, option: str = "model", about: str = "") -> None:
    """Add the two ways to name a network: `NAME` and `--model NAME`.

    Args:
        option: what the second one is called.
        about: what the network is, for the help.
    """
    about = about or "the network: NAME, timm/NAME or torchvision/NAME (accuracy-booster models)"
    short = f"short for --{option} NAME"
    parser.add_argument("name", type=str | None, nargs="?", help=f"the network; {short}")
    names = list(dict.fromkeys([f"--{option}", "--model"]))
    parser.add_argument(*names, type=str | None, help=about)


def network(given: dict[str, Any], option: str = "model") -> str:
    """The network's name, which is taken out of the options.

    Raises:
        ValueError: if none is given, or two different ones.
    """
    name = network_or_none(given, option)
    if name is None:
        raise ValueError(f"name one network, with NAME or --{option} NAME; given: none")
    return name


def network_or_none(given: dict[str, Any], option: str = "model") -> str | None:
    """As `network`, but None if none is given."""
    names = [n for n in (given.pop("name", None), given.pop(option, None)) if n]
    if len(set(names)) > 1:
        found = " and ".join(names)
        raise ValueError(f"name one network, with NAME or --{option} NAME; given: {found}")
    return names[0] if names else None


def blocks_argument(parser: Parser, default: Sequence[str], about: str) -> None:
    """Add --blocks, and --block for it, of a command that takes several blocks."""
    parser.add_argument(
        *("--blocks", "--block"),
        type=str,
        default=",".join(default),
        help=f"{about}, separated by commas (or by newlines, for texts with commas)",
    )


def several_blocks(given: dict[str, Any], default: Sequence[str] = ()) -> list[str]:
    """The blocks of --blocks.

    Raises:
        ValueError: if it names none.
    """
    blocks = split(given["blocks"]) if "blocks" in given else list(default)
    if not blocks:
        raise ValueError("--blocks names no block; 'none' is the network without one")
    return blocks


def also_blocks_argument(parser: Parser) -> None:
    """Let a command that takes one block accept --blocks for --block too."""
    parser.add_argument("--blocks", type=str | None, help=SUPPRESS)


def take_one_block(given: dict[str, Any], command: str) -> None:
    """Put the block of --blocks into `given["block"]`.

    Raises:
        ValueError: if there are several.
    """
    if (other := given.pop("blocks", None)) is not None:
        if given.get("block", other) != other:
            raise ValueError(
                f"--block {shown(given['block'])} and --blocks {shown(other)}: give one of them"
            )
        given["block"] = other
    block = given.get("block")
    if isinstance(block, str) and len(split(block.replace("\n", " "))) > 1:
        raise ValueError(
            f"--block {shown(block)} names several blocks, and {command} takes one; compare trains "
            "several: accuracy-booster compare --blocks ..."
        )


def places_arguments(parser: Parser) -> None:
    """Add --where and --skip."""
    parser.add_argument(
        "--where",
        type=str,
        default="residual",
        help="the gates' sites: residual, conv, attention, or names of modules and regular "
        "expressions between slashes, separated by commas",
    )
    parser.add_argument(
        "--skip",
        type=str | None,
        help="names or shell patterns of modules whose sites get no gate, separated by commas",
    )


def places(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments `where` and `skip` of `ab.boost`, from --where and --skip."""
    return {"where": given.get("where", "residual"), "skip": given.get("skip")}


def input_size_argument(parser: Parser) -> None:
    """Add --input_size."""
    parser.add_argument(
        "--input_size", type=tuple[int, int, int] | None, help="C,H,W of an image it can take"
    )


def input_size(given: dict[str, Any]) -> tuple[int, int, int] | None:
    """(C, H, W) of --input_size, or None.

    Raises:
        ValueError: if a number is below 1, or larger than an image can be.
    """
    size = given.get("input_size")
    if size and (min(size) < 1 or size[0] > MAX_CHANNELS or max(size[1:]) > MAX_SIDE):
        raise ValueError(
            f"--input_size {shown(list(size))} must be three numbers >= 1: up to {MAX_CHANNELS:,} "
            f"channels, and sides up to {MAX_SIDE:,}"
        )
    return size


def count_of_images(given: int | None) -> int | None:
    """The number of --images.

    Raises:
        ValueError: if it is below 1.
    """
    if given is not None and given < 1:
        raise ValueError(f"--images {given} must be a whole number >= 1")
    return given
