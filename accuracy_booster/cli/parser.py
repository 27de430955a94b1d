"""The parser of one command: jsonargparse's, with its help and errors in a user's words."""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from accuracy_booster.cli.help_text import (
    OF_THE_RUN,
    HelpFormatter,
    setting_default,
    settings_title,
)
from accuracy_booster.cli.value_types import in_words, takes_numbers
from accuracy_booster.errors import SHOWN, shortened, unknown
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.yaml_settings import MANY_DIGITS


class Parser(ArgumentParser):
    """jsonargparse's parser; its errors are ValueErrors in a user's words."""

    def __init__(self, **given: Any):
        super().__init__(**{"formatter_class": HelpFormatter, **given})

    def add_class_arguments(self, theclass: type, *args: Any, **given: Any) -> Any:  # type: ignore[override]
        """Add an option for each setting of a configuration.

        A command that takes a run takes the run's settings where none are given: its help says so.
        Otherwise the help shows the defaults that a new training will have.
        """
        of_the_run = any(action.dest == "run" for action in self._actions)
        there, groups = set(map(id, self._actions)), len(self._action_groups)
        added = super().add_class_arguments(theclass, *args, **given)
        for action in self._actions:
            if id(action) in there:
                continue
            default = setting_default(theclass, action.dest, action.default)
            if of_the_run:
                default = OF_THE_RUN
                action.help = re.sub(r"[,;] by default [^;]*", "", action.help or "")
            elif "by default" in (action.help or ""):
                default = ""
            action.default_in_words = default  # type: ignore[attr-defined]
        for group in self._action_groups[groups:]:
            group.title = settings_title(theclass, of_the_run)
        return added

    def option(self, name: str) -> Action | None:
        """The option of this name, such as --batch_size, or the word of this name."""
        names = (name, f"--{name}")
        return next(
            (a for a in self._actions if {*names} & {a.dest, *a.option_strings}),
            None,
        )

    def lists(self) -> set[str]:
        """The options that take several numbers, written as 1,2,3."""
        return self._options_whose_type(takes_numbers)

    def switches(self) -> set[str]:
        """The options that take true or false, or nothing for true."""
        return self._options_whose_type(lambda kind: kind is bool)

    def _options_whose_type(self, fits: Callable[[Any], bool]) -> set[str]:
        return {
            name
            for action in self._actions
            for name in action.option_strings
            if fits(getattr(action, "_typehint", None))
        }

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise a ValueError that says what jsonargparse's message says, without its terms."""
        text = " ".join(str(message).split())
        see = f"see {self.prog} --help"
        if unrecognised := re.fullmatch(r"unrecognized arguments: (--[\w-]+)\b.*", text):
            options = [o for a in self._actions for o in a.option_strings if not o.endswith("+")]
            raise unknown("option", unrecognised[1], options, see)
        if unrecognised := re.fullmatch(r"unrecognized arguments: (.*)", text):
            raise ValueError(
                f"{shortened(unrecognised[1], SHOWN)}: no word is expected here; {see}"
            )
        if missing := re.fullmatch(r"the following arguments are required: (.*)", text):
            raise ValueError(f"{missing[1].upper()} is missing; {see}")
        if lacking := re.match(r"argument (--\w+)\S*: expected one argument", text):
            raise ValueError(f"{lacking[1]} needs a value: {self._must_be(lacking[1])}")
        text = re.sub(r"Exceeds the limit \(\d+ digits\).*", MANY_DIGITS, text)
        key = re.match(r'Parser key "(\w+)": ', text)
        value = re.search(r"(?:Given|Got) value: ?(.*)", text)
        if key and value:
            action = self.option(key[1])
            name = f"--{key[1]}" if action and action.option_strings else key[1].upper()
            got = shortened(value[1], SHOWN) or "nothing"
            raise ValueError(f"{name}: expected {self._must_be(key[1])}; got {got}")
        text = re.sub(r'Parser key "(\w+)": ', r"--\1: ", text)
        raise ValueError(shortened(text, 2 * SHOWN))

    def _must_be(self, name: str) -> str:
        """What the value of an option must be."""
        action = self.option(name)
        kind = getattr(action, "_typehint", None) or getattr(action, "type", None)
        return in_words(kind)[1]


def given_options(parsed: Namespace) -> dict[str, Any]:
    """{option: value} of what the user gave, on the command line or in a file of --config."""
    given = {k: v for k, v in parsed.as_dict().items() if not k.startswith("__")}
    files = given.pop("config", None) or []
    if files and given.get("name"):  # a NAME takes the place of the network that a file names
        given["model"] = given.pop("name")
    for file in files:
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
