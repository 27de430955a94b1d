"""`Record`: what one run came to, as its result file holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import AP, AP50


@dataclass(frozen=True)
class Record:
    """What a run came to.

    Attributes:
        spec: what was run.
        values: the numbers that the tables show. They depend on what the run measures:

            - top1: the top-1 and top-5 accuracy of the last epoch in %. Where gates were made
              constants, also the accuracies before the training (`table.MERGED`);
            - ap: COCO's numbers in %, without those for sizes of objects that no image has;
            - time: the seconds per batch of each block;
            - gates: the accuracies in % with each change of the gates.

            Empty if the training diverged.
        epochs: the rows of the learning curve.
        seconds: the time of the training with its compilation and measurements.
        diverged: why there is no accuracy; "" if there is one.
        data: what identifies the images (`known_data.summary`). Runs of different images are not
            compared.
        about: the machine and the software (`environment`).
    """

    spec: Spec
    values: Mapping[str, float]
    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    diverged: str = ""
    data: Any = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        """The hash of the configuration, and the seed."""
        return self.spec.key


def in_words(record: Record) -> str:
    """A result in a few words, for a line on the terminal."""
    if record.diverged:
        return f"diverged: {record.diverged}"
    if "top1" in record.values:
        return f"top-1 {record.values['top1']:.2f} %, {record.seconds:.0f} s"
    if record.spec.measures == AP:
        ap, ap50 = record.values[AP], record.values[AP50]
        return f"AP {ap:.1f} %, AP50 {ap50:.1f} %, {record.seconds:.0f} s"
    times = ", ".join(f"{block} {value:.4f} s" for block, value in record.values.items())
    return f"{times} per batch"
