"""Which runs of a plan are still to be made, and what a call that makes them came to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from accuracy_booster.files import check_folder
from accuracy_booster.progress import note
from accuracy_booster.reproduction.phrases import count
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import Records, read_records
from accuracy_booster.reproduction.specs import Spec


@dataclass
class Worked:
    """What a call of `work` or `submit` came to.

    Attributes:
        done: the results that it made.
        there: how many runs had a result before.
        missing: the runs that were left out, by name, and what they need.
        failed: the runs that ended with an error, by name, and the error.
    """

    done: list[Record] = field(default_factory=list)
    there: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def missing_runs(specs: Iterable[Spec], records: Records) -> list[Spec]:
    """The runs of a plan that have no result."""
    return [spec for spec in specs if spec.key not in records.found]


def wanted_runs(specs: Sequence[Spec], places: Places) -> tuple[list[Spec], Worked]:
    """The runs of a plan that can be made and have no result, and what is known of the others.

    Runs whose data or weights are not at hand are left out with a line on the terminal.

    Raises:
        ValueError: if no run has a result and none can be made.
    """
    for folder in (places.results, places.work):
        check_folder(folder)
    records, worked = read_records(places.results), Worked()
    for path, reason in records.left_out.items():
        note(f"left out {path.name}: {reason}")
    wanted = missing_runs(specs, records)
    worked.there = len(specs) - len(wanted)
    for spec in wanted:
        if needs := places.missing_for(spec):
            worked.missing[spec.name] = needs
    wanted = [spec for spec in wanted if spec.name not in worked.missing]
    for needs in dict.fromkeys(worked.missing.values()):
        number = sum(needs == other for other in worked.missing.values())
        note(f"left out {count(number, 'run')}: {needs}")
    if worked.missing and not wanted and not worked.there:
        raise ValueError(next(iter(worked.missing.values())))
    return wanted, worked
