"""How `--help` shows options: what they take, and the defaults that will be used."""

from __future__ import annotations

from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter, _HelpAction
from typing import Any

from jsonargparse import DefaultHelpFormatter

from accuracy_booster.cli.value_types import TEXT, in_words
from accuracy_booster.training.presets import FINE_TUNE, PRESETS, default_preset, settings_of
from accuracy_booster.training.train_config import TrainConfig

OF_THE_RUN = "default: the run's"


FIRST_PRESET = default_preset("", str(TrainConfig.data))  # where no data are named
# what stands for the value of options that take text
_NAMED = {
    **{"model": "NAME", "backbone": "NAME", "block": "BLOCK", "blocks": "BLOCK,BLOCK,..."},
    **{"data": "DATA", "resume": "DIR", "output": "PATH", "weights": "FILE|RUN", "preset": "NAME"},
    **{"data_dir": "DIR", "weights_dir": "DIR", "work": "DIR", "results": "PATH", "html": "FILE"},
}


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Prints descriptions as they are, so that the example stays on one line."""

    def _get_help_string(self, action: Action) -> str:
        about = action.help or ""
        if isinstance(action, _HelpAction):
            return "show this help and stop"
        default = shown_default(action)
        return f"{about} ({default})" if default else about

    def _format_action_invocation(self, action: Action) -> str:
        value = value_name(action)
        if not action.option_strings:
            return value
        # jsonargparse adds --NAME+ to options that take lists
        names = [name for name in action.option_strings if not name.endswith("+")]
        return f"{', '.join(names)} {value}".rstrip()

    def _format_usage(self, usage: Any, actions: Any, *args: Any, **kwargs: Any) -> str:
        if usage:
            return f"usage: {usage}\n\n"
        places = [a for a in actions if not a.option_strings and a.help != SUPPRESS]
        words = [_place(action) for action in places]
        return f"usage: {' '.join([self._prog, *words, '[OPTIONS]'])}\n\n"


def value_name(action: Action) -> str:
    """What stands for an option's value in `--help`, such as N for a whole number."""
    if not action.option_strings:
        return action.dest.upper()
    if action.nargs == 0:
        return ""
    kind = getattr(action, "_typehint", None) or action.type
    if kind is None:
        return "FILE"
    word = in_words(kind)[0]
    return _NAMED.get(action.dest, word) if word == TEXT else word


def _place(action: Action) -> str:
    """A word without a name in the usage line: RUN, [NAME], IMAGES..."""
    name = action.dest.upper()
    return {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}..."}.get(str(action.nargs), name)


def shown_default(action: Action) -> str:
    """The words about an option's default, or "" where the help says it, or there is none."""
    told = getattr(action, "default_in_words", None)
    if told is not None:
        return str(told)
    if action.nargs == 0 or "by default" in (action.help or ""):
        return ""
    return default_in_words(action.default, action.dest)


def default_in_words(value: Any, name: str) -> str:
    """ "default: VALUE", or "" where nothing is the default."""
    if value is True:
        return f"default: on; --no_{name} turns it off"
    if value in (None, SUPPRESS, "", [], ()):
        return ""
    return f"default: {_value(value)}"


def setting_default(kind: type, name: str, value: Any) -> str:
    """The words about the default of a setting of a training.

    The settings of a training for classification start from a preset, which depends on the network
    and the data: where presets differ, the value of each is told, that of the default data first.
    """
    if kind is not TrainConfig or not any(name in settings for settings in PRESETS.values()):
        return default_in_words(value, name)
    by_value: dict[str, list[str]] = {}
    for preset in sorted(PRESETS, key=lambda preset: preset != FIRST_PRESET):
        by_value.setdefault(_value(settings_of(preset).get(name, value)), []).append(preset)
    most = max(by_value, key=lambda shown: (len(by_value[shown]), FIRST_PRESET in by_value[shown]))
    told = [f"{v} in {', '.join(presets)}" for v, presets in by_value.items() if v != most]
    return f"default by preset: {'; '.join([*told, f'otherwise {most}'])}"


def _value(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ",".join(map(_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_title(kind: type, of_the_run: bool) -> str:
    """The title of the group of a training's settings."""
    if of_the_run:
        return "settings, each by default the run's own"
    if kind is TrainConfig:
        return (
            f"settings (by default those of --preset, which is {FINE_TUNE} with --pretrained or "
            f"--weights, otherwise {FIRST_PRESET} unless --data is given)"
        )
    return "settings"
