"""Options of Slurm jobs: from the text of the command line to what submitit takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from accuracy_booster.errors import shown, unknown

# options of submitit that cannot be given as text, or that would make several processes of one run
_REFUSED = {
    *("setup", "teardown", "srun_args", "additional_parameters", "stderr_to_stdout"),
    *("nodes", "ntasks_per_node", "tasks_per_node", "num_gpus"),
}


def submitit() -> Any:
    """The package submitit.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module("submitit")
    except ImportError:
        raise ValueError(
            "the Slurm executor needs submitit, which is not installed; pip install "
            "'accuracy-booster[cluster]'"
        ) from None


def parse_options(text: str) -> dict[str, Any]:
    """Options of a job from text: "partition=gpu,gres=gpu:1,time=120" -> a dictionary for `submit`.

    The names are those of sbatch as submitit has them, with - or _. Whole numbers become integers,
    and `true` and `false` become booleans. A part without = belongs to the value before it, as in
    "nodelist=n1,n2".

    Raises:
        ValueError: for an unknown name or a wrong value, or if submitit is not installed.
    """
    options = dict[str, Any]()
    name = ""
    for part in filter(None, (part.strip() for part in text.split(","))):
        new, equals, value = part.partition("=")
        if not equals:
            if not name:
                raise ValueError(
                    f"Slurm option {shown(part)} has no value; write NAME=VALUE, such as "
                    "partition=gpu,gres=gpu:1,time=120"
                )
            options[name] = f"{options[name]},{part}"
            continue
        name = new.strip().replace("-", "_")
        if name in options:
            raise ValueError(f"Slurm option {shown(name)} is given twice; give it once")
        options[name] = value.strip()
    return checked_options(options)


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the names and values that `SlurmExecutor.update_parameters` takes.

    Raises:
        ValueError: for an unknown name or a wrong value, or if submitit is not installed.
    """
    executor = submitit().SlurmExecutor
    other_names = executor._equivalence_dict()
    names = {*executor._valid_parameters(), *other_names} - _REFUSED
    checked = dict[str, Any]()
    for name, value in options.items():
        if name not in names:
            raise unknown("Slurm option", name, names)
        value = _parsed(value)
        if name in ("time", "timeout_min", "signal_delay_s", "array_parallelism"):
            unit = {"signal_delay_s": " of seconds", "array_parallelism": ""}
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"Slurm option {name}={shown(value)} must be a whole number"
                    f"{unit.get(name, ' of minutes')} from 1, such as {name}=120"
                )
        if name == "mem_gb":
            value = f"{value}GB"
        checked[other_names.get(name, name)] = value
    return checked


def _parsed(value: Any) -> Any:
    """A text as the integer or boolean that it means; other values as they are."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    return int(value) if value.isascii() and value.isdigit() else value
