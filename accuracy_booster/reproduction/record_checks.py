"""Checks of a result against its run: numbers that no run can have are refused."""

from __future__ import annotations

import math
from dataclasses import fields

from accuracy_booster.detection.metrics import DetectionMetrics
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.table import AP, AP50, GATES, MERGED, TIME, WHICH

DETECTOR_NUMBERS = {f.name for f in fields(DetectionMetrics)} - {"images"}


def check_record(record: Record) -> None:
    """Raise ValueError for a result that its run cannot have come to."""
    if record.seconds < 0:
        raise ValueError(f"it took {record.seconds:g} seconds")
    if record.diverged:
        if record.values:
            raise ValueError("it diverged, and holds a result")
        return
    checks = {TIME: _check_times, GATES: _check_gates, AP: _check_detector}
    checks.get(record.spec.measures, _check_classifier)(record)


def _check_times(record: Record) -> None:
    if set(record.values) != set(record.spec.options["blocks"]):
        raise ValueError("it does not hold the time of each block")
    if min(record.values.values()) <= 0:
        raise ValueError("it holds a time that is not above 0")


def _check_gates(record: Record) -> None:
    cells = {f"{which} {p:g}" for which in WHICH for p in record.spec.options["percents"]}
    if set(record.values) != {"top1", "frozen", *cells}:
        raise ValueError("it does not hold the accuracy with each change of the gates")
    if not all(0 <= value <= 100 for value in record.values.values()):
        raise ValueError("it holds an accuracy that is not from 0 to 100 %")


def _check_classifier(record: Record) -> None:
    before = set(MERGED) if record.spec.options.get("merged") else set()
    if set(record.values) != {"top1", "top5"} | before:
        raise ValueError("it holds no top-1 and top-5 accuracy")
    if not all(0 <= record.values[name] <= 100 for name in before):
        raise ValueError("it holds an accuracy that is not from 0 to 100 %")
    top1, top5 = record.values["top1"], record.values["top5"]
    if not 0 <= top1 <= top5 <= 100:
        raise ValueError(f"its accuracies are {top1:g} and {top5:g}, not from 0 to 100 %")
    _check_curve(record, "top1", "top-1")


def _check_detector(record: Record) -> None:
    if not {AP, AP50} <= set(record.values) <= DETECTOR_NUMBERS:
        raise ValueError("it does not hold AP, AP50 and COCO's other numbers")
    if not all(0 <= value <= 100 for value in record.values.values()):
        raise ValueError("it holds a number that is not from 0 to 100 %")
    ap, ap50 = record.values[AP], record.values[AP50]
    if ap > ap50 + 1e-6:
        raise ValueError(f"its AP is {ap:g}, and its AP50, which is never less, {ap50:g}")
    _check_curve(record, AP, "AP")


def _check_curve(record: Record, name: str, shown_as: str) -> None:
    """Raise ValueError unless the curve has every epoch, and ends at the result's value."""
    epochs = record.spec.config.epochs
    if len(record.epochs) != epochs:
        raise ValueError(f"it holds {len(record.epochs)} epochs, and its run has {epochs}")
    last, value = record.epochs[-1].get(f"test_{name}", math.nan), record.values[name]
    if not abs(last - value) < 0.01:  # metrics.csv has six digits
        raise ValueError(f"its {shown_as} is {value:g}, and its last epoch's {last:g}")
