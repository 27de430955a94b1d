"""The command that counts what a network and its blocks cost: complexity."""

from __future__ import annotations

from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import print_table, say
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


def _complexity_arguments(parser: Parser) -> None:
    network_arguments(parser)
    blocks_argument(parser, ["ab"], "the blocks")
    places_arguments(parser)
    input_size_argument(parser)
    parser.add_argument("--batch_size", type=int, default=1, help="images in a batch")
    parser.add_argument(
        "--convention",
        type=str,
        default="mac",
        help="what MACs counts beside multiply-adds: mac (nothing), mac+norm, mac+sum, mac+bias",
    )


def _complexity(given: dict[str, Any]) -> Result:
    import torch

    from accuracy_booster.analysis import Complexity, complexity, conventions
    from accuracy_booster.models import create_model

    name, size = network(given), input_size(given)
    options = {
        "batch_size": given.get("batch_size", 1),
        "convention": given.get("convention", "mac"),
    }
    conventions.terms_of(options["convention"])
    blocks, sites = several_blocks(given, ["ab"]), places(given)
    costs: dict[str, Complexity] = {}
    for block in dict.fromkeys(["none", *blocks]):
        with torch.device("meta"):
            try:
                model = create_model(
                    name, block=block, input_size=size, in_chans=size[0] if size else 3, **sites
                )
            except ValueError as e:
                more = "; --blocks none counts the plain network" if block != "none" else ""
                raise ValueError(f"{e}{more}") from None
            costs[block] = complexity(model, size, **options)
        channels, height, width = costs["none"].input_size
        size = (channels, height, width)

    def show() -> None:
        first = costs["none"]
        images = first.batch_size
        shape = "x".join(map(str, first.input_size))
        say(f"{name}, {images} image{'s'[: images > 1]} of {shape}, convention {first.convention}")
        print_table(*_network_table(costs))
        for block, cost in costs.items():
            if cost.blocks:
                say(f"Each block of {block}")
                print_table(*_block_table(cost))
        say(
            "MACs are multiply-adds (the paper's FLOPS); FLOPs count 2 for each and all other "
            "arithmetic.",
            "RTM: 4 bytes for each weight and each output of a layer; (paper): as in its Table 1.",
        )

    return {"model": name, "rows": [{"block": b, **c.to_dict()} for b, c in costs.items()]}, show


def _network_table(costs: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["block", "parameters", "block weights", "MACs", "FLOPs", "activations"]
    header += ["RTM", "RTM (paper)", "depth"]
    rows = []
    for block, cost in costs.items():
        extra = cost.extra
        cells = [block, f"{cost.parameters:,}", f"{cost.block_weights:,}"]
        for what in ("macs", "flops", "activations", "rtm", "rtm_paper"):
            cells.append(_short(getattr(cost, what)) + "B" * what.startswith("rtm"))
        rows.append([*cells, str(cost.depth)])
        if cost.blocks:
            cells = ["  extra", f"{extra.parameters:+,}", ""]
            for what in ("macs", "flops", "activations", "rtm", "rtm_paper"):
                cells.append("+" + _short(getattr(extra, what)) + "B" * what.startswith("rtm"))
            rows.append([*cells, ""])
    return header, rows


def _block_table(cost: Any) -> tuple[list[str], list[list[str]]]:
    """One row for the blocks of the same size."""
    header = ["blocks", "channels", "map", "parameters", "weights", "MACs", "FLOPs"]
    header += ["activations", "RTM", "RTM (paper)", "depth"]
    groups: dict[tuple, list[Any]] = {}
    for block in cost.blocks:
        groups.setdefault((block.channels, block.spatial_size), []).append(block)
    rows = []
    for (channels, size), members in groups.items():
        one = members[0]
        numbers = [one.parameters, one.weights, one.macs, one.flops, one.activations]
        cells = [f"{len(members)}", f"{channels:,}", "x".join(map(str, size))]
        cells += [f"{n:,}" for n in numbers]
        rows.append([*cells, f"{one.rtm:,} B", f"{one.rtm_paper:,} B", str(one.depth)])
    return header, rows


def _short(number: int) -> str:
    """Four digits and a unit: 3.858 G."""
    for power, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(number) >= 10**power:
            return f"{number / 10**power:.4g} {unit}"
    return f"{number} "


COMMANDS = {
    "complexity": Command(
        "Count parameters, MACs, FLOPs, activations and memory of a network and its blocks.",
        "accuracy-booster complexity --model resnet50 --blocks ab,ab_plus,se,cbam",
        _complexity_arguments,
        _complexity,
    ),
}
