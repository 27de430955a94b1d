"""The commands that list networks and blocks, and that show where gates would go: models, plan."""

from __future__ import annotations

from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import print_table, say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import (
    also_blocks_argument,
    input_size,
    input_size_argument,
    network,
    network_arguments,
    places,
    places_arguments,
    take_one_block,
)
from accuracy_booster.errors import shown


def _models_arguments(parser: Parser) -> None:
    parser.add_argument(
        "filter",
        type=str,
        nargs="?",
        default="*",
        help="a pattern or a part of names, ours and those of timm and torchvision: resnet18, "
        '"*resnet18*", "timm/resnet*", "torchvision/*"; by default all of ours, and the blocks',
    )
    parser.add_argument(
        "--boostable",
        action="store_true",
        help="only networks with a residual branch to boost; planning takes a second for each",
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="only networks with weights to download"
    )


def _models(given: dict[str, Any]) -> Result:
    from accuracy_booster.blocks import TABLE, list_recipes
    from accuracy_booster.models import MODELS, list_models

    pattern = given.get("filter") or "*"
    kinds = {name: given.get(name, False) for name in ("boostable", "pretrained")}
    names = list_models(pattern, **kinds)
    if not names:
        asked = "".join(f", with --{name}" for name, on in kinds.items() if on)
        raise ValueError(
            f"no model matches {shown(pattern)}{asked}; 'accuracy-booster models' lists all of "
            "ours, and 'accuracy-booster models \"timm/*\"' all of timm's"
        )
    ours = [_described(name) for name in names if name in MODELS]
    others = [name for name in names if name not in MODELS]
    value: dict[str, Any] = {"models": [*ours, *({"name": name} for name in others)]}
    blocks = {}
    if pattern == "*" and not any(kinds.values()):
        blocks = {
            name: {"recipe": TABLE[name][0], "source": TABLE[name][1]} for name in list_recipes()
        }
        value["blocks"] = blocks

    def show() -> None:
        if ours:
            print_table(*_table_of_ours(ours))
            if any(m["name"].startswith("wrn") for m in ours):
                say("wrnD_K works for any depth D = 6n + 4 and width K.")
        say(*others)
        if blocks:
            say("")
            print_table(
                ["block", "what its gates compute", "source"],
                [[name, row["recipe"], row["source"]] for name, row in blocks.items()],
            )
            say(
                "ab_gN works for any number of groups N, and --block takes any such text.",
                'More networks: accuracy-booster models "timm/resnet*" or "torchvision/*".',
            )

    return value, show


def _described(name: str) -> dict[str, Any]:
    """What is known of a network of ours."""
    import torch

    from accuracy_booster.models import MODELS, create_model

    row = MODELS[name]
    with torch.device("meta"):
        parameters = sum(p.numel() for p in create_model(name).parameters())
    return {
        **{"name": name, "about": row.about, "input_size": row.input_size},
        **{"num_classes": row.num_classes, "parameters": parameters},
    }


def _table_of_ours(models: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: our networks."""
    rows = [
        [
            *(m["name"], f"{m['parameters']:,}", f"{m['num_classes']:,}"),
            *("x".join(map(str, m["input_size"])), m["about"]),
        ]
        for m in models
    ]
    return ["model", "parameters", "classes", "input", "what it is"], rows


# the kinds of reports, and what made them: folding is shown without a compiler and without timings
FAST_PATHS = {
    "fused": "With ab.fuse, for training:",
    "folded": "With ab.fold, for inference (torch's convolutions, kernel='off'):",
}


def _plan_arguments(parser: Parser) -> None:
    network_arguments(parser)
    parser.add_argument("--block", type=str, default="ab", help="the gates' recipe")
    also_blocks_argument(parser)
    places_arguments(parser)
    parser.add_argument("--init", type=str, default="paper", help="paper or identity")
    parser.add_argument(
        "--fast_path",
        action="store_true",
        help="also show which gates ab.fuse (training) and ab.fold (inference) make free",
    )
    input_size_argument(parser)


def _plan(given: dict[str, Any]) -> Result:
    import torch

    from accuracy_booster.models import create_model
    from accuracy_booster.surgery import plan

    name, size = network(given), input_size(given)
    take_one_block(given, "plan")
    model = create_model(name)
    result = plan(
        model,
        given.get("block", "ab"),
        **places(given),
        init=given.get("init", "paper"),
        example=torch.zeros(1, *size) if size else None,
    )

    reports = _fast_paths(model, result, size) if given.get("fast_path") else []

    def show() -> None:
        print_table(*result.table())
        say(*result.summary().split("\n"))
        for line in result.skipped:
            say(f"skipped: {line}")
        for report in reports:
            say("", FAST_PATHS[report.kind])
            print_table(*report.overview())
            say(report.summary())

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
    folded = fold(model.eval(), example=example, kernel="off")  # nothing is compiled or timed
    return [fast_path(fuse(model, example=example)), fast_path(folded)]


COMMANDS = {
    "plan": Command(
        "Show where a network would be boosted, and what that adds.",
        "accuracy-booster plan timm/resnet50 --block ab",
        _plan_arguments,
        _plan,
    ),
    "models": Command(
        "List the networks and the blocks.",
        'accuracy-booster models "*resnet18*" --pretrained',
        _models_arguments,
        _models,
    ),
}
