"""What a command of the command line is: a line about it, an example, its options, its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accuracy_booster.cli.parser import Parser

PROGRAM = "accuracy-booster"
# What a command returns: the value for --json, a function that prints the result for people, and,
# where it may differ from 0, the exit code.
Result = tuple[Any, ...]


@dataclass(frozen=True)
class Command:
    """A command. Its name has one word, or two where several commands share the first.

    Attributes:
        about: one line for `--help`.
        example: a command line that works.
        arguments: adds the command's options to its parser. It imports no torch, so that `--help`
            answers at once.
        run: does the work, given {option: value} of the options that the user named.
        takes_all_words: whether the words after the first are another program's, so that there are
            no options that all commands have.
    """

    about: str
    example: str
    arguments: Callable[[Parser], None]
    run: Callable[[dict[str, Any]], Result]
    takes_all_words: bool = False
