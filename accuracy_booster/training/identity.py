"""What tells one run from another: its id, its settings, and how its machine rounds."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from accuracy_booster.files import hash_of
from accuracy_booster.training.run_config import RunConfig

# Settings that may change when a run is resumed. They do not change its result (or, like epochs,
# run.json notes the change), or were decided when the run began.
FREE = (
    *("output", "overwrite", "bad_images", "checkpoint_minutes", "workers"),
    *("epochs", "compile", "fuse", "log_with"),
)


def new_id() -> str:
    """An id that no other run has."""
    return secrets.token_hex(8)


def fingerprint(config: RunConfig) -> str:
    """A short hash of the settings that may not change when a run is resumed.

    Settings at their defaults do not count, so that the fingerprints of runs stay as they are when
    an option is added to this package.
    """
    given = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if f.name not in (*FREE, *config.places) and getattr(config, f.name) != f.default
    }
    return hash_of(given)[:16]


def differences(first: RunConfig, second: RunConfig, *free: str) -> str:
    """The settings that differ, as "lr=0.1 and not 0.2, ...", or "".

    Args:
        free: names of settings that may differ.
    """
    return ", ".join(
        f"{f.name}={getattr(first, f.name)!r:.60} and not {getattr(second, f.name)!r:.60}"
        for f in fields(first)
        if f.name not in free and getattr(first, f.name) != getattr(second, f.name)
    )


def numerics() -> dict[str, Any]:
    """What decides how sums round in this process.

    A run that is resumed where these values differ is not what it would have been bit for bit.
    """
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def rounds_differently(known: Mapping[str, Any]) -> str:
    """How this process rounds differently from one with the `numerics` in `known`, or ""."""
    return ", ".join(
        f"{name} {known[name]!s:.40} then and {now} now"
        for name, now in numerics().items()
        if name in known and known[name] != now
    )


def versions() -> dict[str, str]:
    """The versions of Python, of this package, and of those that it computes with."""
    from importlib.metadata import version

    from accuracy_booster.version import __version__

    own = {"python": sys.version.split()[0], "accuracy-booster": __version__}
    return {**own, **{n: version(n) for n in ("torch", "torchvision", "timm", "accelerate")}}
