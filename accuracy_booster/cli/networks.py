"""The commands about networks without training them: models, plan, complexity."""

from __future__ import annotations

import re
from typing import Any

from accuracy_booster.cli.base import Command, Parser, print_table, say, split
from accuracy_booster.errors import shown
from accuracy_booster.training.config import MAX_CHANNELS
from accuracy_booster.training.setting_types import MAX_SIDE


def _models_arguments(parser: Parser) -> None:
    parser.add_argument(
        "filter",
        type=str,
        nargs="?",
        default="*",
        help='a pattern of networks: "resnet*", "timm/resnet*", "torchvision/*"',
    )


def _models(given: dict[str, Any]):
    import torch

    from accuracy_booster.blocks import TABLE, list_recipes
    from accuracy_booster.models import MODELS, create_model, list_models

    pattern = given.get("filter", "*")
    names = list_models(pattern)
    if not names:
        raise ValueError(
            f"no model matches {shown(pattern)}; 'accuracy-booster models' lists all of ours"
        )
    if any(name not in MODELS for name in names):  # of timm or torchvision: too many to build
        return {"models": names}, lambda: say(*names)
    with torch.device("meta"):
        models: list[dict[str, Any]] = [
            {
                "name": name,
                "about": MODELS[name].about,
                "input_size": MODELS[name].input_size,
                "num_classes": MODELS[name].num_classes,
                "parameters": sum(p.numel() for p in create_model(name).parameters()),
            }
            for name in names
        ]
    recipes = {
        name: {"recipe": TABLE[name][0], "source": TABLE[name][1]} for name in list_recipes()
    }

    def show() -> None:
        print_table(
            ["model", "parameters", "classes", "input", "about"],
            [
                [
                    *(m["name"], f"{m['parameters']:,}", f"{m['num_classes']:,}"),
                    *("x".join(map(str, m["input_size"])), m["about"]),
                ]
                for m in models
            ],
        )
        say("wrnD_K works for any depth D = 6n + 4 and width K.", "")
        print_table(
            ["block", "recipe", "source"],
            [[name, row["recipe"], row["source"]] for name, row in recipes.items()],
        )
        say("ab_gN works for any number of groups N, and --block takes any recipe's text.")

    return {"models": models, "blocks": recipes}, show


def network_arguments(parser: Parser) -> None:
    about = "the network: NAME, timm/NAME or torchvision/NAME"
    parser.add_argument("name", type=str, nargs="?", help=f"{about} (short for --model NAME)")
    parser.add_argument("--model", type=str, help=about)


def network(given: dict[str, Any]) -> str:
    """The network's name, given in one of the two ways."""
    names = [n for n in (given.get("name"), given.get("model")) if n]
    if len(set(names)) != 1:
        found = " and ".join(names) or "none"
        raise ValueError(f"name one network, with --model NAME; given: {found}")
    return names[0]


def input_size_argument(parser: Parser) -> None:
    parser.add_argument(
        "--input_size", type=tuple[int, int, int] | None, help="C,H,W of an image it can take"
    )


def input_size(given: dict[str, Any]) -> tuple[int, int, int] | None:
    size = given.get("input_size")
    if size and (min(size) < 1 or size[0] > MAX_CHANNELS or max(size[1:]) > MAX_SIDE):
        raise ValueError(
            f"--input_size {shown(list(size))} must be three numbers >= 1: up to {MAX_CHANNELS:,} "
            f"channels, and sides up to {MAX_SIDE:,}"
        )
    return size


def _plan_arguments(parser: Parser) -> None:
    network_arguments(parser)
    parser.add_argument("--block", type=str, default="ab", help="the gates' recipe")
    parser.add_argument(
        "--where",
        type=str,
        default="residual",
        help="residual, conv, attention, a module's name, or a regular expression between slashes",
    )
    parser.add_argument("--init", type=str, default="paper", help="paper or identity")
    parser.add_argument(
        "--fast_path",
        action="store_true",
        help="also show which gates ab.fuse (training) and ab.fold (inference) make free",
    )
    input_size_argument(parser)


def _plan(given: dict[str, Any]):
    import torch

    from accuracy_booster.models import create_model
    from accuracy_booster.surgery import plan

    name, size = network(given), input_size(given)
    where = given.get("where", "residual")
    if len(where) > 2 and where[0] == where[-1] == "/":
        try:
            where = re.compile(where[1:-1])
        except re.error as e:
            raise ValueError(f"where={shown(where)} is no regular expression: {e}") from None
    model = create_model(name)
    result = plan(
        model,
        given.get("block", "ab"),
        where=where,
        init=given.get("init", "paper"),
        example=torch.zeros(1, *size) if size else None,
    )

    reports = _fast_paths(model, result, size) if given.get("fast_path") else []

    def show() -> None:
        print_table(*result.table())
        say(*result.summary().split("\n"))
        for report in reports:
            print_table(*report.table())
            say(*report.summary().split("\n"))
        for line in result.skipped:
            say(f"skipped: {line}")

    value = result.to_dict()
    if reports:
        value["fast_path"] = [report.to_dict() for report in reports]
    return value, show


def _fast_paths(model: Any, result: Any, size: tuple[int, int, int] | None) -> list[Any]:
    """What fusing and folding would do with the planned gates."""
    import torch

    from accuracy_booster.fastpath import fast_path, fold, fuse
    from accuracy_booster.surgery import attach

    example = torch.zeros(1, *size) if size else None
    attach(model, result.recipe, [gate.site for gate in result.gates])
    folded = fold(model.eval(), example=example)
    return [fast_path(fuse(model, example=example)), fast_path(folded)]


def _complexity_arguments(parser: Parser) -> None:
    network_arguments(parser)
    parser.add_argument(
        "--block",
        type=str,
        default="ab",
        help="the blocks, separated by commas (or by newlines, for texts with commas)",
    )
    input_size_argument(parser)
    parser.add_argument("--batch_size", type=int, default=1, help="images in a batch")
    parser.add_argument(
        "--convention",
        type=str,
        default="mac",
        help="what MACs counts beside multiply-adds: mac (nothing), mac+norm, mac+sum, mac+bias",
    )


def _complexity(given: dict[str, Any]):
    import torch

    from accuracy_booster.analysis import Complexity, complexity, conventions
    from accuracy_booster.models import create_model

    name, size = network(given), input_size(given)
    options = {
        "batch_size": given.get("batch_size", 1),
        "convention": given.get("convention", "mac"),
    }
    conventions.terms_of(options["convention"])
    blocks = split(given.get("block", "ab"))
    if not blocks:
        raise ValueError("--block names no block; 'none' is the plain network")
    costs: dict[str, Complexity] = {}
    for block in dict.fromkeys(["none", *blocks]):
        with torch.device("meta"):
            try:
                model = create_model(
                    name, block=block, input_size=size, in_chans=size[0] if size else 3
                )
            except ValueError as e:
                more = "; --block none counts the plain network" if block != "none" else ""
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
    "plan": Command(
        "Show where a network would be boosted, and what that adds.",
        "accuracy-booster plan timm/resnet50 --block ab",
        _plan_arguments,
        _plan,
    ),
    "complexity": Command(
        "Count parameters, MACs, FLOPs, activations and memory of a network and its blocks.",
        "accuracy-booster complexity --model resnet50 --block ab,ab_plus,se,cbam",
        _complexity_arguments,
        _complexity,
    ),
    "models": Command(
        "List the networks and the blocks.",
        'accuracy-booster models "resnet*"',
        _models_arguments,
        _models,
    ),
}
