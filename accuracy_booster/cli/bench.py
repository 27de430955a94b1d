"""The command that measures what blocks cost in time and memory: bench."""

from __future__ import annotations

import json
from typing import Any

from accuracy_booster.analysis.choices import BENCHED_BLOCKS
from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import output_file, print_tables, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import (
    blocks_argument,
    input_size,
    input_size_argument,
    network,
    network_arguments,
    places,
    places_arguments,
    several_blocks,
)
from accuracy_booster.cli.words import split
from accuracy_booster.errors import shown, unknown

MAX_THREADS = 1024
COMPILE = {"off": (False,), "on": (True,), "both": (False, True)}


def _arguments(parser: Parser) -> None:
    network_arguments(parser)
    about = "the blocks (the network without one is always measured)"
    blocks_argument(parser, BENCHED_BLOCKS, about)
    parser.add_argument(
        "--against",
        type=str | None,
        help="other networks to time in the same turns, as people run them today, such as "
        "timm/seresnet50,timm/ecaresnet50d",
    )
    places_arguments(parser)
    parser.add_argument(
        "--modes", type=str, default="infer,train", help="infer, train or both: infer,train"
    )
    parser.add_argument("--batch_sizes", type=list[int], default=[1, 16], help="such as 1,16,256")
    parser.add_argument("--compile", type=str, default="both", help="off, on or both")
    parser.add_argument(
        "--paths",
        type=str,
        default="naive,ours",
        help="of the networks with a block: naive (as it is), ours (ab.fold or ab.fuse), or both",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=10,
        help="how often each variant runs; compiling takes 10 to 120 s for each",
    )
    parser.add_argument(
        "--seconds",
        type=float | None,
        help="start no round of a case later than this after its first, but run three",
    )
    parser.add_argument("--precision", type=str, default="fp32", help="fp32, bf16 or fp16")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int | None, help="CPU threads; by default all cores")
    input_size_argument(parser)
    parser.add_argument("--output", type=str | None, help="also write the result to this JSON file")


def _bench(given: dict[str, Any]) -> Result:
    name = network(given)
    compile = given.get("compile", "both")
    if compile not in COMPILE:
        raise unknown("value of --compile", compile, COMPILE)
    output = output_file(given.get("output"), "bench.json")
    if output and not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no directory {output.parent}; make it first")
    threads = given.get("threads")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"--threads {shown(threads)} must be >= 1, and <= {MAX_THREADS}")
    import torch

    from accuracy_booster.analysis import bench

    if threads is not None:
        torch.set_num_threads(threads)
    options: dict[str, Any] = {
        key: given[key]
        for key in ("batch_sizes", "rounds", "seconds", "precision", "device")
        if key in given
    }
    if "blocks" in given:
        options["blocks"] = several_blocks(given)
    for key in ("modes", "paths", "against"):
        if given.get(key) is not None:
            options[key] = split(given[key])
    result = bench(
        name, compile=COMPILE[compile], input_size=input_size(given), **places(given), **options
    )
    if output:
        from accuracy_booster.files import write

        write(output, (json.dumps(result.to_dict(), indent=1) + "\n").encode())

    def show() -> None:
        print_tables(result.tables())
        say(*result.summary().split("\n"))
        if output:
            say(output)

    return result.to_dict(), show


COMMANDS = {
    "bench": Command(
        "Time a network with each block against two without: as people run it today, and folded or "
        "fused as ours.",
        "accuracy-booster bench --model resnet50 --blocks se,ab --modes infer --batch-sizes 1,16",
        _arguments,
        _bench,
    ),
}
