"""What every command has in common: its shape, its parser, its words, its tables."""

from __future__ import annotations

import json
import os
import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from yaml import YAMLError

from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.errors import SHOWN, shortened, shown, unknown
from accuracy_booster.progress import console, printable
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.yaml_settings import (
    MANY_DIGITS,
    check_nesting,
    read_settings,
    read_settings_file,
)

PROGRAM = "accuracy-booster"
LISTS = (
    "--milestones",
    "--mean",
    "--std",
    "--image_size",
    "--input_size",
    "--tables",
    "--batch_sizes",
    "--min_size",
    "--anchor_sizes",
    "--image_mean",
    "--image_std",
)
MAX_WORD = 100_000  # characters of a word of the command line
NUMBERS = r"[\d.eE+-]+(,[\d.eE+-]+)*"


class Parser(ArgumentParser):
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
        text = text.replace("tuple[int, int, int]", "C,H,W").replace("list[int]", "numbers: 2,4")
        text = re.sub(r"Exceeds the limit \(\d+ digits\).*", MANY_DIGITS, text)
        said, got, value = text.partition("; got " if "; got " in text else "Got value: ")
        raise ValueError(shortened(said, 2 * SHOWN) + got + shortened(value, SHOWN))


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the example on one line."""


@dataclass(frozen=True)
class Command:
    """A command of one word, or of two where several share the first.

    `run` takes what was given; it returns the JSON value, a function that prints the result, and
    an exit code where that may differ from 0.
    """

    about: str
    example: str
    arguments: Callable[[Parser], None]
    run: Callable[[dict[str, Any]], tuple[Any, ...]]


def explicit(parsed: Namespace) -> dict[str, Any]:
    """What was given, on the command line or in a file."""
    given = {k: v for k, v in parsed.as_dict().items() if not k.startswith("__")}
    for file in given.pop("config", None) or []:
        if "block" in given:
            given["block"] = _of_a_run(Path(str(file)), given["block"])
    return given


def _of_a_run(file: Path, block: str) -> str:
    """The block of a run's config.yaml as it is written today; any other as it is."""
    if not file.with_name("run.json").is_file():
        return block
    from accuracy_booster.training.run_directory import Run

    try:
        recorded = TrainConfig.from_yaml(file.read_text()).block
        _, config = Run.open(file.parent, ended=False)
    except (OSError, ValueError):
        return block  # run.json is another program's
    return config.block if block == recorded else block


def check_configs(words: Sequence[str]) -> None:
    """Look at the files, or texts, of --config before jsonargparse loads and prints what they hold.

    Raises:
        ValueError: for one that is not a short YAML text of plain settings.
    """
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if option == "--config" and equals:
            word = value
        elif before != "--config":
            continue
        if os.path.isfile(word):
            settings = read_settings_file(word)
        elif not os.path.exists(word) and any(c in word for c in "\n{[:"):
            settings = read_settings(word)
        else:
            continue  # jsonargparse says that there is none
        known = {f.name for f in (*fields(TrainConfig), *fields(DetectConfig))}
        known |= {"resume", "print_config", "json", "debug"}
        for name in settings:
            if name not in known:  # also `config`, which would load a file that nobody looked at
                raise unknown("option", name, known, f"it is in {shown(word)}")


def check_words(words: Sequence[str]) -> None:
    """Look at long words before jsonargparse, for which an option's value is YAML, loads them.

    Raises:
        ValueError: for a word that is longer, or nested deeper, than any option's value.
    """
    for before, word in zip(["", *words], words, strict=False):
        option, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        is_option = option.startswith("--")
        where = f"{shortened(option, SHOWN)}={shown(value)}" if is_option else shown(value)
        if len(word) > MAX_WORD:
            raise ValueError(f"{where} has more than {MAX_WORD:,} characters")
        if len(word) < 200:
            continue
        try:
            check_nesting(value)
        except YAMLError:
            pass  # jsonargparse, or whoever takes it, tells what is wrong
        except ValueError as e:
            raise ValueError(f"{where} is no value: {e}") from None


def normalise(words: list[str]) -> list[str]:
    """`--batch-size` for `--batch_size`, a bare `--overwrite`, and `0.5,0.75` for `[0.5,0.75]`."""
    known = (*fields(TrainConfig), *fields(DetectConfig))
    switches = {f"--{f.name}" for f in known if isinstance(f.default, bool)}
    out: list[str] = []
    for i, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            option, equals, value = word.partition("=")
            word = option.replace("-", "_").replace("__", "--", 1) + equals + value
            if word.startswith("--no_") and f"--{word[5:]}" in switches:
                word = f"--{word[5:]}=false"
            elif word in switches and (i + 1 == len(words) or words[i + 1].startswith("--")):
                word += "=true"
            option = word.partition("=")[0]
            if option in LISTS and re.fullmatch(NUMBERS, value):
                word = f"{option}={_listed(option, value)}"
        elif out and out[-1] in LISTS and re.fullmatch(NUMBERS, word):
            word = _listed(out[-1], word)
        out.append(word)
    return out


def _listed(option: str, word: str) -> str:
    """Numbers as a YAML list; one that may stand alone stays as it is."""
    single = option == "--image_size" and "," not in word
    return word if single else f"[{word}]"


def output_file(given: str | None, example: str) -> Path | None:
    """The file that an option names, or None.

    Raises:
        ValueError: for a directory.
    """
    if given and Path(given).is_dir():
        raise ValueError(f"{given} is a directory; name a file, such as {example}")
    return Path(given) if given else None


def add_training(parser: Parser) -> None:
    """What every command that trains takes, beside its settings."""
    parser.add_argument("--config", action="config", help="a YAML file, such as RUN/config.yaml")
    parser.add_argument(
        "--print_config", action="store_true", help="print the resolved settings as YAML and stop"
    )
    parser.add_argument(
        "--resume",
        type=str | None,
        help="go on with the run in this directory, as it was; --epochs N trains it longer, and "
        "--data PLACE names data that have moved",
    )


def trained_value(result: Any) -> dict[str, Any]:
    """What a command that trains gives as JSON, of a `TrainResult`."""
    return {
        "output": str(result.output),
        "parameters": result.parameters,
        "seconds": result.seconds,
        "test": result.test.to_dict(),
    }


def say(*lines: object) -> None:
    """Print results on stdout, each value on one line, with its control characters escaped."""
    for line in lines:
        print(printable(line))


def say_json(value: Any) -> None:
    """Print a result as one line of JSON, in ASCII: exact, and harmless on a terminal."""
    print(json.dumps(value).replace("\x7f", "\\u007f"))  # DEL, the one control that JSON leaves


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    where = console(stderr=False, soft_wrap=False)
    if not where.is_terminal:
        where.width = 160
    where.print(table)


def print_tables(tables: Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]]]]) -> None:
    """Print each table under its title."""
    for title, header, rows in tables:
        say(title)
        print_table(header, rows)


def split(text: str) -> list[str]:
    """Split at commas outside of parentheses, and at newlines."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "\n" or (character == "," and depth <= 0):
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
