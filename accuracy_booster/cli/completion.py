"""Completion of words by the shell, with argcomplete: `pip install "accuracy-booster[completion]"`.

The shell asks the program itself, which answers from its parsers and imports no torch. Names of
timm's and torchvision's networks would need both libraries: timm/ and torchvision/ are offered.
"""

from __future__ import annotations

import argparse
import os
import shlex
from typing import Any

from accuracy_booster.cli.command import PROGRAM
from accuracy_booster.cli.commands import COMMANDS
from accuracy_booster.cli.names import BLOCKS, LIBRARIES, NETWORKS
from accuracy_booster.cli.program import parser_of
from accuracy_booster.data.choices import AUGMENTS, BUILT_IN, CROP_MODES, INTERPOLATIONS
from accuracy_booster.reproduction.budgets import BUDGETS
from accuracy_booster.training.presets import PRESETS
from accuracy_booster.training.train_config import SPLITS

_NETWORKS = (*NETWORKS, *LIBRARIES)
# what is offered for an option's value; for others, files and folders are
VALUES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("name", "model", "backbone", "filter"), _NETWORKS),
    **dict.fromkeys(("block", "blocks"), BLOCKS),
    **{"precision": ("fp32", "bf16", "fp16"), "device": ("auto", "cpu", "cuda")},
    **{"preset": tuple(PRESETS), "budget": tuple(BUDGETS), "split": SPLITS},
    **{"augment": AUGMENTS, "interpolation": INTERPOLATIONS, "crop_mode": CROP_MODES},
    **{"init": ("auto", "paper", "identity"), "schedule": ("step", "cosine")},
    **{"compile": ("auto", "on", "off"), "fuse": ("auto", "on", "off")},
}


def answer() -> None:
    """Print what the shell asks for, and end the process. Without argcomplete nothing happens."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(_tree(os.environ.get("COMP_LINE", "")), always_complete_options=False)


def _tree(line: str) -> argparse.ArgumentParser:
    """A parser of all commands, and of the options of the one that the line names."""
    try:
        words = shlex.split(line)[1:]
    except ValueError:  # an open quote
        words = line.split()[1:]
    program = argparse.ArgumentParser(PROGRAM)
    program.add_argument("--version", action="store_true", help="show the version")
    commands = program.add_subparsers()
    groups: dict[str, Any] = {}
    for name, command in COMMANDS.items():
        first, _, second = name.partition(" ")
        if second:
            if first not in groups:
                groups[first] = commands.add_parser(first).add_subparsers()
            leaf = groups[first].add_parser(second, help=command.about)
        else:
            leaf = commands.add_parser(first, help=command.about)
        if words[: len(name.split())] == name.split():
            _add_options(leaf, name)
    for word in ("help", "version"):
        commands.add_parser(word)
    return program


def _add_options(leaf: argparse.ArgumentParser, name: str) -> None:
    """Add a command's options, with what is offered for their values."""
    from argcomplete.completers import FilesCompleter

    files = FilesCompleter()
    for action in parser_of(name, COMMANDS[name])._actions:
        names = [option for option in action.option_strings if not option.endswith("+")]
        if action.dest == "help":
            continue
        is_switch = action.nargs == 0 or getattr(action, "_typehint", None) is bool
        if names:
            kind: dict[str, Any] = {"action": "store_true"} if is_switch else {}
            added = leaf.add_argument(*names, dest=action.dest, help=action.help, **kind)
        else:
            added = leaf.add_argument(action.dest, nargs=action.nargs, help=action.help)
        known = VALUES.get(action.dest)
        if known is not None and not is_switch:
            added.completer = lambda known=known, **_: known  # type: ignore[attr-defined]
        elif action.dest == "data":
            added.completer = lambda prefix="", **_: [*BUILT_IN, *files(prefix)]  # type: ignore[attr-defined]
