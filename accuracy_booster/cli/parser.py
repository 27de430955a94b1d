"""The parser of one command: jsonargparse's, with its errors in a user's words."""

from __future__ import annotations

import re
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from accuracy_booster.errors import SHOWN, shortened, unknown
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.yaml_settings import MANY_DIGITS


class Parser(ArgumentParser):
    """jsonargparse's parser; its errors are ValueErrors in a user's words."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise a ValueError that says what jsonargparse's message says, without its terms."""
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
    """Prints descriptions as they are, so that the example stays on one line."""


def given_options(parsed: Namespace) -> dict[str, Any]:
    """{option: value} of what the user gave, on the command line or in a file of --config."""
    given = {k: v for k, v in parsed.as_dict().items() if not k.startswith("__")}
    for file in given.pop("config", None) or []:
        if "block" in given:
            given["block"] = _block_of_today(Path(str(file)), given["block"])
    return given


def _block_of_today(file: Path, block: str) -> str:
    """The block of a configuration file in the grammar of this version.

    An older version may have written the config.yaml of a run, and then the block's text can have
    another meaning today. `run.json` beside it tells the version. Other files keep their block.
    """
    if not file.with_name("run.json").is_file():
        return block
    from accuracy_booster.training.run_directory import Run

    try:
        recorded = TrainConfig.from_yaml(file.read_text()).block
        _, config = Run.open(file.parent, ended=False)
    except (OSError, ValueError):
        return block  # another program wrote run.json
    return config.block if block == recorded else block
