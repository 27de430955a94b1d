"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from accuracy_booster.errors import TrainingStopped, unknown
from accuracy_booster.training.config import PRESETS, TrainConfig

PROGRAM = "accuracy-booster"
LISTS = ("--milestones", "--mean", "--std", "--image_size", "--input_size")  # take numbers
NUMBERS = r"[\d.eE+-]+(,[\d.eE+-]+)*"


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise jsonargparse's message in a user's words."""
        text = " ".join(str(message).split())
        if unrecognised := re.fullmatch(r"unrecognized arguments: (--[\w-]+)\b.*", text):
            options = [o for action in self._actions for o in action.option_strings]
            raise unknown("option", unrecognised[1], options, f"see {self.prog} --help")
        text = re.sub(r'Parser key "(\w+)": ', r"--\1: ", text)
        text = re.sub(r"<class '(?:NoneType|(\w+))'>", lambda m: m[1] or "null", text)
        text = re.sub(r"Expected an? ", "expected ", text)
        text = re.sub(
            r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors:.*"
            r"Given value: (.*)",
            r"expected one of: \1; got \2",
            text,
        )
        raise ValueError(text)


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the example on one line."""


@dataclass(frozen=True)
class Command:
    about: str
    example: str
    arguments: Callable[[_Parser], None]
    run: Callable[[dict[str, Any]], tuple[Any, Callable[[], None]]]  # JSON value, and how to print


def _train_arguments(parser: _Parser) -> None:
    parser.add_argument("--config", action="config", help="a YAML file, such as RUN/config.yaml")
    parser.add_argument(
        "--print_config", action="store_true", help="print the resolved settings as YAML and stop"
    )
    parser.add_class_arguments(TrainConfig)


def _train(given: dict[str, Any]):
    from accuracy_booster.training import resolve, train

    if given.pop("print_config", False):
        config = resolve(**given)
        return None, lambda: print(config.to_yaml(), end="")
    result = train(**given)
    value = {
        "output": str(result.output),
        "parameters": result.parameters,
        "seconds": result.seconds,
        "test": result.test.to_dict(),
    }

    def show() -> None:
        test, epochs = result.test, result.config.epochs
        print(
            f"top-1 {test.top1:.2f} % (error {test.top1_error:.2f} %), top-5 {test.top5:.2f} % "
            f"on {test.images:,} test images after {epochs} epoch{'s'[: epochs > 1]}, "
            f"{result.seconds:.0f} s, {result.parameters:,} parameters"
        )
        print(result.output)

    return value, show


def _compare_arguments(parser: _Parser) -> None:
    parser.add_argument("--model", type=str, default="resnet14", help="the network")
    parser.add_argument(
        "--blocks",
        type=str,
        default="none,se,ab,ab_plus",
        help="the blocks to compare, separated by commas (or by newlines, for texts with commas)",
    )
    parser.add_argument("--seeds", type=int, default=2, help="how many, counting from --seed")
    parser.add_argument("--output", type=str | None, help="the directory of the runs and report")
    parser.add_class_arguments(TrainConfig, skip={"model", "block", "output"})


def _compare(given: dict[str, Any]):
    from accuracy_booster.analysis import compare
    from accuracy_booster.analysis.report import comparison_table

    blocks = given.pop("blocks", "none,se,ab,ab_plus")
    result = compare(blocks=_split(blocks), **given)

    def show() -> None:
        _table(*comparison_table(result))
        print(f"{result.seconds:.0f} s. Report:")
        print(result.report)

    return result.to_dict(), show


def _split(text: str) -> list[str]:
    """Split at commas outside of parentheses, and at newlines."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "\n" or (character == "," and depth <= 0):
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _eval_arguments(parser: _Parser) -> None:
    from accuracy_booster.training.evaluation import OPTIONS

    parser.add_argument("run", type=str, help="the directory of a finished run")
    parser.add_argument("--data", type=str | None, help="other data than those of the training")
    parser.add_argument("--split", type=str, default="test", help="test, train or validation")
    others = {f.name for f in fields(TrainConfig)} - set(OPTIONS)
    parser.add_class_arguments(TrainConfig, skip=others)


def _eval(given: dict[str, Any]):
    from accuracy_booster.training import evaluate

    metrics = evaluate(given.pop("run"), **given)

    def show() -> None:
        print(
            f"top-1 error {metrics.top1_error:.2f} %, top-5 error {metrics.top5_error:.2f} % "
            f"({metrics.images:,} images)"
        )

    return metrics.to_dict(), show


def _models_arguments(parser: _Parser) -> None:
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
            f"no model matches {pattern!r}; 'accuracy-booster models' lists all of ours"
        )
    if any(name not in MODELS for name in names):  # of timm or torchvision: too many to build
        return {"models": names}, lambda: print(*names, sep="\n")
    with torch.device("meta"):
        models: list[dict[str, Any]] = [
            {
                "name": name,
                "about": MODELS[name].about,
                "input_size": MODELS[name].input_size,
                "parameters": sum(p.numel() for p in create_model(name).parameters()),
            }
            for name in names
        ]
    recipes = {
        name: {"recipe": TABLE[name][0], "source": TABLE[name][1]} for name in list_recipes()
    }

    def show() -> None:
        _table(
            ["model", "parameters", "input", "about"],
            [
                [m["name"], f"{m['parameters']:,}", "x".join(map(str, m["input_size"])), m["about"]]
                for m in models
            ],
        )
        print("Parameters: with 10 classes. wrnD_K works for any depth D = 6n + 4 and width K.\n")
        _table(
            ["block", "recipe", "source"],
            [[name, row["recipe"], row["source"]] for name, row in recipes.items()],
        )
        print("ab_gN works for any number of groups N, and --block takes any recipe's text.")

    return {"models": models, "blocks": recipes}, show


def _plan_arguments(parser: _Parser) -> None:
    parser.add_argument("model", type=str, help="the network: NAME, timm/NAME or torchvision/NAME")
    parser.add_argument("--block", type=str, default="ab", help="the gates' recipe")
    parser.add_argument(
        "--where",
        type=str,
        default="residual",
        help="residual, conv, attention, a module's name, or a regular expression between slashes",
    )
    parser.add_argument("--init", type=str, default="paper", help="paper or identity")
    parser.add_argument(
        "--input_size", type=tuple[int, int, int] | None, help="[C,H,W] of an image it can take"
    )


def _plan(given: dict[str, Any]):
    import torch

    from accuracy_booster.models import create_model
    from accuracy_booster.surgery import plan

    where, size = given.get("where", "residual"), given.get("input_size")
    if size and min(size) < 1:
        raise ValueError(f"--input_size {list(size)} must be three numbers >= 1")
    if len(where) > 2 and where[0] == where[-1] == "/":
        try:
            where = re.compile(where[1:-1])
        except re.error as e:
            raise ValueError(f"where={where!r} is no regular expression: {e}") from None
    result = plan(
        create_model(given["model"]),
        given.get("block", "ab"),
        where=where,
        init=given.get("init", "paper"),
        example=torch.zeros(1, *size) if size else None,
    )

    def show() -> None:
        _table(*result.table())
        print(result.summary())
        for line in result.skipped:
            print(f"skipped: {line}")

    return result.to_dict(), show


COMMANDS = {
    "compare": Command(
        "Train a network with several blocks and seeds; a table and an HTML report.",
        "accuracy-booster compare --model resnet14 --blocks none,se,ab,ab_plus --seeds 2",
        _compare_arguments,
        _compare,
    ),
    "train": Command(
        "Train a network with or without a block.",
        "accuracy-booster train --model resnet56 --block ab --data cifar100 --epochs 200",
        _train_arguments,
        _train,
    ),
    "eval": Command(
        "Top-1 and top-5 error of a finished run.",
        "accuracy-booster eval runs/resnet56-ab-cifar100-s0",
        _eval_arguments,
        _eval,
    ),
    "plan": Command(
        "Show where a network would be boosted, and what that adds.",
        "accuracy-booster plan timm/resnet50 --block ab",
        _plan_arguments,
        _plan,
    ),
    "models": Command(
        "List the networks and the blocks.",
        'accuracy-booster models "resnet*"',
        _models_arguments,
        _models,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for input it cannot use, 130 if interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = _main([word for word in words if word != "--debug"])
        sys.stdout.flush()
        return code
    except (ValueError, TrainingStopped, OSError, KeyboardInterrupt) as e:
        if debug:
            raise
        if isinstance(e, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            return 130
        if isinstance(e, OSError):  # stdout is closed or full: nothing more goes there
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(e, BrokenPipeError):
                return 141  # as a shell reports it
        print(f"{PROGRAM}: error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2 if isinstance(e, ValueError) else 1


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"{PROGRAM}: warning: {message}", file=sys.stderr)


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from accuracy_booster import __version__

        print(f"{PROGRAM} {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS, f"see {PROGRAM} --help")
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"{PROGRAM} {name}",
        description=f"{command.about}\n\nExample: {command.example}",
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
    )
    command.arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = _explicit(parser.parse_args(_normalise(rest), defaults=False))
    as_json = given.pop("json", False)
    given.pop("debug", None)
    value, show = command.run(given)
    if as_json and value is not None:
        print(json.dumps(value))
    else:
        show()
    return 0


def _explicit(parsed: Namespace) -> dict[str, Any]:
    given = parsed.as_dict()
    return {k: v for k, v in given.items() if k != "config" and not k.startswith("__")}


def _normalise(words: list[str]) -> list[str]:
    """`--batch-size` for `--batch_size`, a bare `--overwrite`, and `0.5,0.75` for `[0.5,0.75]`."""
    switches = {f"--{f.name}" for f in fields(TrainConfig) if isinstance(f.default, bool)}
    out: list[str] = []
    for i, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            option, equals, value = word.partition("=")
            word = option.replace("-", "_").replace("__", "--", 1) + equals + value
            if word.startswith("--no_") and f"--{word[5:]}" in switches:
                word = f"--{word[5:]}=false"
            elif word in switches and (i + 1 == len(words) or words[i + 1].startswith("--")):
                word += "=true"
        elif out and out[-1] in LISTS and re.fullmatch(NUMBERS, word):
            single = out[-1] == "--image_size" and "," not in word  # may be one number
            word = word if single else f"[{word}]"
        out.append(word)
    return out


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        f"usage: {PROGRAM} COMMAND ...",
        "",
        "Make convolutional networks more accurate by re-calibrating their channels.",
        "",
        *(f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()),
        "",
        f"{PROGRAM} COMMAND --help shows a command's options and an example.",
        f"Presets of settings: {', '.join(PRESETS)}.",
    ]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
