"""`accuracy-booster script`: run somebody's script with boosted names registered."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from accuracy_booster.cli.command import PROGRAM, Command, Result
from accuracy_booster.cli.failures import exit_code_of
from accuracy_booster.cli.parser import Parser
from accuracy_booster.errors import shown

NAME = "script"
HELP: tuple[list[str], ...] = ([], ["-h"], ["--help"])


def _arguments(parser: Parser) -> None:
    words = f"{PROGRAM} {NAME}"
    parser.usage = f"{words} SCRIPT [ARGS...]\n       {words} -m MODULE [ARGS...]"
    parser.add_argument(
        "script",
        type=str,
        help="a file of Python, or a Python program on the PATH such as yolo; or -m MODULE",
    )
    parser.add_argument(
        "args", nargs=argparse.REMAINDER, help="all that follows belongs to the script"
    )


def _run(given: dict[str, Any]) -> Result:
    run_words([given["script"], *given.get("args", [])])
    return None, lambda: None


def is_script(words: Sequence[str]) -> bool:
    """Whether the words run a script. Those after its name are the script's, not ours."""
    return list(words[:1]) == [NAME] and list(words[1:2]) not in HELP


def run_words(words: Sequence[str]) -> int:
    """Run the script that the words after `script` name; what it raises is raised.

    Returns:
        The exit code: 0 where the script came to its end, 2 where there is no such script.
    """
    first, *rest = words
    try:
        if first == "-m" and not rest:
            raise ValueError("-m needs a value: the name of a module")
        path = "" if first == "-m" else _found(first)
    except ValueError as error:
        return exit_code_of(error) or 2
    from accuracy_booster.integrations.scripts import run_module, run_script

    if first == "-m":
        run_module(rest[0], rest[1:])
    else:
        run_script(path, rest)
    return 0


def _found(word: str) -> str:
    """The path of a script, or of a program of Python beside this one or on the PATH.

    Raises:
        ValueError: if there is none.
    """
    if word.startswith("-"):
        raise ValueError(
            f"{shown(word)} is no option of {NAME}; only -m MODULE stands before SCRIPT"
        )
    if os.path.exists(word):
        return word
    beside = os.path.dirname(sys.executable)
    path = None if os.sep in word else shutil.which(word, path=beside) or shutil.which(word)
    if path is None:
        raise ValueError(
            f"{shown(word)} is neither a file nor a program on the PATH; give the path of a script "
            "of Python, or -m MODULE"
        )
    with open(path, "rb") as file:
        head = file.read(300)
    if not head.startswith(b"#!") or b"python" not in head:
        raise ValueError(f"{path} is no program of Python; give a script of Python, or -m MODULE")
    return path


COMMANDS = {
    NAME: Command(
        "Run a script of timm, torchvision or your own that then knows boosted names.",
        "accuracy-booster script train.py --model ab_resnet50.ab --data-dir FOLDER",
        _arguments,
        _run,
        takes_all_words=True,
    ),
}
