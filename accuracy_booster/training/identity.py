"""What tells one run from another: its id, and fingerprints of its settings and its machine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from accuracy_booster.files import hash_of
from accuracy_booster.training.run_config import RunConfig

# Settings that may change while a run goes on: they leave its result as it is, or are noted, or
# were decided when it began.
FREE = (
    *("output", "overwrite", "bad_images", "checkpoint_minutes", "workers"),
    *("epochs", "compile", "fuse"),
)


def new_id() -> str:
    """An id that no other run has."""
    return secrets.token_hex(8)


def fingerprint(config: RunConfig) -> str:
    """A short hash of the settings that may not change while a run goes on.

    Settings at their defaults do not count, so that an option added later changes nothing.
    """
    given = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if f.name not in (*FREE, *config.places) and getattr(config, f.name) != f.default
    }
    return hash_of(given)[:16]


def differences(first: RunConfig, second: RunConfig, *free: str) -> str:
    """ "lr=0.1 and not 0.2, ...": the settings that differ, but for the free ones; or ""."""
    return ", ".join(
        f"{f.name}={getattr(first, f.name)!r:.60} and not {getattr(second, f.name)!r:.60}"
        for f in fields(first)
        if f.name not in free and getattr(first, f.name) != getattr(second, f.name)
    )


def numerics() -> dict[str, Any]:
    """What decides how sums round: with another value a run goes on, and not bit for bit."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def rounds_differently(known: Mapping[str, Any]) -> str:
    """How this process rounds differently from the one whose `numerics` are known, or ""."""
    return ", ".join(
        f"{name} {known[name]!s:.40} then and {now} now"
        for name, now in numerics().items()
        if name in known and known[name] != now
    )
