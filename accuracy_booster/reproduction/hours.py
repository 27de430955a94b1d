"""How long the missing runs will take, from those that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import median

import torch

from accuracy_booster.reproduction.records import Record, Records
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import TRAINED
from accuracy_booster.reproduction.words import count
from accuracy_booster.training.train_config import TrainConfig


def hours_left(specs: Sequence[Spec], records: Records) -> str:
    """ "about 3.2 h left", from the runs that have ended on any machine."""
    known = [seconds_of(spec, records) for spec in specs]
    hours = sum(seconds for seconds in known if seconds is not None) / 3600
    unknown = sum(seconds is None for seconds in known)
    if unknown == len(known):
        return "hours left: unknown until a run has ended" if known else "nothing is left"
    more = f", and {count(unknown, 'run')} of unknown length" if unknown else ""
    return f"about {duration(hours)} left{more}"


def duration(hours: float) -> str:
    """ "3.2 h", "1,240 h", or minutes where there are few."""
    if hours < 0.1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def seconds_of(spec: Spec, records: Records) -> float | None:
    """How long a run will take; None if no run like it has ended.

    As long as the runs of the same configuration; else as those of the same network on the same
    data, per epoch; else as those on the same data, per epoch and multiply-add.
    """
    ended = [record for record in records.found.values() if not record.diverged]
    same = [record.seconds for record in ended if record.spec.hash == spec.hash]
    if same:
        return median(same)
    if spec.measures not in TRAINED:
        return None
    trained = [
        record
        for record in ended
        if record.spec.measures == spec.measures
        and record.spec.options["data"] == spec.options["data"]
        and _frozen(record.spec) == _frozen(spec)
    ]
    like = [record for record in trained if record.spec.model == spec.model]
    epochs = spec.config.epochs
    if like:
        return epochs * median(map(_per_epoch, like))
    if not trained:
        return None
    rate = median(_per_epoch(record) / _macs(record.spec.model) for record in trained)
    return epochs * rate * _macs(spec.model)


def _frozen(spec: Spec) -> str:
    return spec.config.freeze if isinstance(spec.config, TrainConfig) else ""


def _per_epoch(record: Record) -> float:
    return record.seconds / max(1, len(record.epochs))


@cache
def _macs(model: str) -> int:
    """Multiply-adds of a network for an image of 32 x 32, enough to compare networks."""
    from accuracy_booster.analysis import complexity
    from accuracy_booster.models import create_model

    with torch.device("meta"):
        network = create_model(model)
        return complexity(network, (3, 32, 32)).macs
