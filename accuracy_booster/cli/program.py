"""The program: it finds the command that the words name, runs it and prints what it found."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from accuracy_booster.cli.command import PROGRAM, Command
from accuracy_booster.cli.commands import COMMANDS
from accuracy_booster.cli.failures import ShowWarnings, exit_code_of
from accuracy_booster.cli.output import escaping_stdout, say_json
from accuracy_booster.cli.parser import Parser, given_options
from accuracy_booster.cli.script import is_script, run_words
from accuracy_booster.cli.words import check_configs, check_words, normalise, with_place
from accuracy_booster.errors import unknown
from accuracy_booster.training.presets import PRESETS
from accuracy_booster.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after the program's name; by default those of this process.

    Returns:
        The exit code: 0; 1 where training cannot go on; 2 for input that cannot be used; 128 plus
        the signal's number after a signal.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if is_script(words):  # its errors, warnings and exit codes are its own
        return run_words(words[1:])
    debug = "--debug" in words
    try:
        with warnings.catch_warnings(), escaping_stdout():
            warnings.showwarning = ShowWarnings()
            try:
                code = run([word for word in words if word != "--debug"])
            except SystemExit as end:  # after --help of a command
                code = int(end.code or 0)
            sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        code_or_none = exit_code_of(error)
        if code_or_none is None:
            raise  # a fault of ours: its traceback is needed
        return code_or_none


def run(words: list[str]) -> int:
    """Run the command that the words name; errors are raised. Returns the exit code."""
    if words and words[0] == "help":
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] in ("--version", "version"):
        print(f"{PROGRAM} {__version__}")
        return 0
    name, rest = _find_command(words)
    if name not in COMMANDS:
        print(_overview(name))
        return 0
    command = COMMANDS[name]
    parser = parser_of(name, command)
    rest = normalise(rest, parser.lists(), parser.switches())
    check_words(rest)
    places = check_configs(rest)
    try:
        given = given_options(parser.parse_args(rest, defaults=False))
        as_json = given.pop("json", False)
        given.pop("debug", None)
        value, show, *code = command.run(given)
    except ValueError as error:
        placed = with_place(error, places)
        if placed is error:
            raise
        raise placed from error
    if os.environ.get("RANK", "0") != "0":
        return 0  # torchrun starts several processes; the first one prints
    if as_json and value is not None:
        say_json(value)
    else:
        show()
    return code[0] if code else 0


def parser_of(name: str, command: Command) -> Parser:
    """The parser of a command's options."""
    parser = Parser(
        prog=f"{PROGRAM} {name}",
        description=f"{command.about}\n\nExample: {command.example}",
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
    )
    command.arguments(parser)
    if command.takes_all_words:
        return parser
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _find_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name and the words after it.

    Where the words name a group alone (`reproduce`), the group's name is returned.

    Raises:
        ValueError: if no command has this name; the error tells the nearest names.
    """
    name, *rest = words
    if name in COMMANDS:
        return name, rest
    group = [command.partition(" ")[2] for command in COMMANDS if command.startswith(f"{name} ")]
    if not group:
        raise unknown("command", name, COMMANDS, f"see {PROGRAM} --help")
    if not rest or rest[0] in ("-h", "--help"):
        return name, rest
    if rest[0] not in group:
        raise unknown(f"{name} command", rest[0], group, f"see {PROGRAM} {name} --help")
    return f"{name} {rest[0]}", rest[1:]


def _overview(group: str = "") -> str:
    """What `--help` prints: all commands, or those of a group."""
    listed = {n: c for n, c in COMMANDS.items() if not group or n.startswith(f"{group} ")}
    width = max(map(len, listed))
    lines = [
        f"usage: {' '.join(filter(None, (PROGRAM, group)))} COMMAND ...",
        "",
        "Make convolutional networks more accurate by re-calibrating their channels.",
        "",
        *(f"  {name:<{width}}  {command.about}" for name, command in listed.items()),
        "",
        f"{PROGRAM} COMMAND --help shows a command's options and an example. Options may be",
        "written with - for _: --batch-size is --batch_size.",
    ]
    if not group:
        lines.append(f"Presets of settings: {', '.join(PRESETS)}.")
    return "\n".join(lines)
