"""An estimate of how long the missing runs will take, from the runs that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import median

import torch

from accuracy_booster.reproduction.phrases import count, duration
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import Records
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import TRAINED
from accuracy_booster.training.train_config import TrainConfig

UNKNOWN = "unknown until a run has ended"


def hours_left(specs: Sequence[Spec], records: Records) -> str:
    """How long runs will take, such as "about 3.2 h left", whichever machine made the results."""
    known = [seconds_of(spec, records) for spec in specs]
    hours = sum(seconds for seconds in known if seconds is not None) / 3600
    unknown = sum(seconds is None for seconds in known)
    if unknown == len(known):
        return UNKNOWN if known else "nothing is left"
    more = f", and {count(unknown, 'run')} of unknown length" if unknown else ""
    return f"about {duration(hours)} left{more}"


def seconds_of(spec: Spec, records: Records) -> float | None:
    """An estimate of how long a run takes, in seconds; None if no similar run has ended.

    It is the median time of the ended runs that are most like this one:

    1. runs of the same configuration;
    2. else runs of the same network on the same data, by their time per epoch;
    3. else runs of any network on the same data, by their time per epoch and multiply-add.
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
        and _frozen_part(record.spec) == _frozen_part(spec)
    ]
    of_network = [record for record in trained if record.spec.model == spec.model]
    epochs = spec.config.epochs
    if of_network:
        return epochs * median(map(_per_epoch, of_network))
    if not trained:
        return None
    rate = median(_per_epoch(record) / _macs(record.spec.model) for record in trained)
    return epochs * rate * _macs(spec.model)


def _frozen_part(spec: Spec) -> str:
    """What of the network is frozen: frozen layers make an epoch shorter."""
    return spec.config.freeze if isinstance(spec.config, TrainConfig) else ""


def _per_epoch(record: Record) -> float:
    return record.seconds / max(1, len(record.epochs))


@cache
def _macs(model: str) -> int:
    """Multiply-adds of a network for an image of 32 x 32, which is enough to compare networks."""
    from accuracy_booster.analysis import complexity
    from accuracy_booster.models import create_model

    with torch.device("meta"):
        network = create_model(model)
        return complexity(network, (3, 32, 32)).macs
