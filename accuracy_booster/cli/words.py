"""The words of a command line, checked and put into the form that jsonargparse takes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

from yaml import YAMLError

from accuracy_booster.detection.config import DetectConfig
from accuracy_booster.errors import SHOWN, shortened, shown, unknown
from accuracy_booster.progress import printable
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.yaml_settings import check_nesting, read_settings, read_settings_file

MAX_WORD = 100_000  # characters
NUMBERS = r"[\d.eE+-]+(,[\d.eE+-]+)*"


def check_configs(words: Sequence[str]) -> dict[str, str]:
    """Check what --config names before jsonargparse loads it: files, or YAML texts.

    Returns:
        Where each setting of them stands: "FILE, line 3". Those that the command line gives itself
        are left out.

    Raises:
        ValueError: if it is no short YAML text of plain settings that are known.
    """
    places = dict[str, str]()
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if option == "--config" and equals:
            word = value
        elif before != "--config":
            continue
        source = shortened(printable(word), SHOWN)
        if os.path.isfile(word):
            settings = read_settings_file(word)
        elif not os.path.exists(word) and any(c in word for c in "\n{[:"):
            source = "--config"
            settings = read_settings(word, source)
        else:
            continue  # jsonargparse tells that there is no such file
        _check_model(settings.get("model"), word, words)
        known = {f.name for f in (*fields(TrainConfig), *fields(DetectConfig))}
        known |= {"resume", "print_config", "json", "debug"}
        for name in settings:
            place = f"{source}, line {settings.lines.get(str(name), 1)}"
            # `config` is not known either: it would load a file that was not checked
            if name not in known:
                raise with_place(unknown("option", name, known), {"": place}, "")
            places[name] = place
    given = {word.partition("=")[0].removeprefix("--") for word in words if word[:2] == "--"}
    return {name: place for name, place in places.items() if name not in given}


def with_place(error: ValueError, places: Mapping[str, str], name: str | None = None) -> ValueError:
    """The error, with the place of the setting that it is about, where a file gave that.

    Args:
        places: of each setting, as `check_configs` returns them.
        name: the setting; by default the one that the error begins with, as in "epochs=0 must ...".
    """
    if name is None:
        found = re.match(r"(?:--)?(\w+)[=:]", str(error))
        name = found[1] if found else None
    place = places.get(name or "")
    return error if place is None else ValueError(f"{place}: {error}")


def _check_model(model: object, file: str, words: Sequence[str]) -> None:
    """Raise ValueError for a file that names code to import, unless --model names it too.

    A configuration may come from somebody else.
    """
    if not isinstance(model, str) or ":" not in model:
        return
    if model not in words and not any(word.partition("=")[0] == "--model" for word in words):
        raise ValueError(
            f"{shown(file)} names code of somebody's own, model: {shown(model)}, and code is "
            f"never imported merely because a file names it; give --model {model} too"
        )


def check_words(words: Sequence[str]) -> None:
    """Check long words before jsonargparse loads them: it reads an option's value as YAML.

    Raises:
        ValueError: if a word is longer, or nested deeper, than a value of an option can be.
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
            pass  # jsonargparse tells what is wrong
        except ValueError as e:
            raise ValueError(f"{where} is no value: {e}") from None


def normalise(
    words: list[str], lists: Collection[str] = (), switches: Collection[str] = ()
) -> list[str]:
    """The words in the spelling that jsonargparse takes.

    `--batch-size` becomes `--batch_size`, `--overwrite` alone `--overwrite=true`, `--no-nesterov`
    `--nesterov=false`, and `0.5,0.75` `[0.5,0.75]` where an option takes several numbers.

    Args:
        lists: the options that take several numbers.
        switches: those that take true or false, or nothing for true.
    """
    out: list[str] = []
    for i, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            option, equals, value = word.partition("=")
            word = option.replace("-", "_").replace("__", "--", 1) + equals + value
            if word.startswith("--no_") and f"--{word[5:]}" in switches:
                word = f"--{word[5:]}=false"
            elif word in switches and not _is_truth(words[i + 1 : i + 2]):
                word += "=true"
            option = word.partition("=")[0]
            if option in lists and re.fullmatch(NUMBERS, value):
                word = f"{option}={_listed(option, value)}"
        elif out and out[-1] in lists and re.fullmatch(NUMBERS, word):
            word = _listed(out[-1], word)
        out.append(word)
    return out


def _is_truth(words: Sequence[str]) -> bool:
    """Whether the word after a switch is its value."""
    return bool(words) and words[0].lower() in ("true", "false", "yes", "no")


def _listed(option: str, word: str) -> str:
    """Numbers as a YAML list. A single number of --image_size stays a number."""
    single = option == "--image_size" and "," not in word
    return word if single else f"[{word}]"


def split(text: str) -> list[str]:
    """The parts of a text between commas, or newlines. Commas in parentheses do not count."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "\n" or (character == "," and depth <= 0):
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
