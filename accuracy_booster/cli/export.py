"""The command that writes a run into a file for production: export."""

from __future__ import annotations

from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import own_network_argument
from accuracy_booster.errors import shown

BATCH_SIZES = "1,16"


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run of train")
    parser.add_argument(
        "--format",
        type=str | None,
        help="onnx, openvino, torch (a program of torch.export), aoti (compiled ahead of time, for "
        "C++) or executorch (for phones); by default as --output ends, else onnx",
    )
    parser.add_argument(
        "--output", type=str | None, help="the file; by default RUN/model.onnx, .xml, .pt2, ..."
    )
    parser.add_argument("--opset", type=int | None, help="of ONNX, from 18 on; by default torch's")
    parser.add_argument(
        "--batch",
        type=int | None,
        help="a number of images, for a file that takes no other; by default it takes any number",
    )
    parser.add_argument(
        "--images",
        type=str | None,
        help="a file, a directory or a pattern of images on which the outputs are compared; by "
        "default the run's test images",
    )
    parser.add_argument("--count", type=int, default=64, help="so many of these images")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="the largest difference of an output that is accepted, over the largest output",
    )
    parser.add_argument(
        "--batch_sizes",
        type=str,
        default=BATCH_SIZES,
        help="numbers of images for which the file is timed, separated by commas",
    )
    parser.add_argument("--no_timing", action="store_true", help="time nothing")
    parser.add_argument(
        "--kernel",
        type=str,
        default="off",
        help="auto or on: --format aoti carries the CPU kernel of this package along",
    )
    own_network_argument(parser)
    parser.add_argument("--data", type=str | None, help="where the run's data are now")
    parser.add_argument(
        "--data_dir", type=str | None, help="where cifar10 and cifar100 are, or timm's data sets"
    )


def _export(given: dict[str, Any]) -> Result:
    from accuracy_booster.deploy import export

    sizes = _numbers(given.pop("batch_sizes", BATCH_SIZES))
    if given.pop("no_timing", False):
        sizes = None
    exported = export(given.pop("run"), batch_sizes=sizes, **given)

    def show() -> None:
        megabytes = exported.size / 1e6
        say(f"{exported.parity}")
        if exported.latency:
            print_table(*exported.table())
        say(f"{exported.path} ({megabytes:.1f} MB)")

    return exported.to_dict(), show


def _numbers(text: str) -> list[int] | None:
    """The whole numbers in "1,16"."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ValueError(
            f"--batch_sizes {shown(text)} must be whole numbers >= 1, separated by commas, such as "
            f"{BATCH_SIZES}"
        )
    return [int(word) for word in words]


COMMANDS = {
    "export": Command(
        "Write a finished run into a file that onnxruntime, torch or OpenVINO runs, and check it.",
        "accuracy-booster export runs/resnet56-ab-cifar100-s0 --format onnx",
        _arguments,
        _export,
    ),
}
