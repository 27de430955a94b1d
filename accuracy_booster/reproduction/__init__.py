"""The paper's tables, each made again by one call and set beside what is printed."""

from accuracy_booster.reproduction.counts import Check, Counts, counts
from accuracy_booster.reproduction.pausing import go_on, pause
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.queue import Worked, work
from accuracy_booster.reproduction.records import Record, Records, read_records
from accuracy_booster.reproduction.specs import Spec, plan
from accuracy_booster.reproduction.table import Row, Table
from accuracy_booster.reproduction.tables import TABLES, find_tables

__all__ = [
    "TABLES",
    "Check",
    "Counts",
    "Places",
    "Record",
    "Records",
    "Row",
    "Spec",
    "Table",
    "Worked",
    "counts",
    "find_tables",
    "go_on",
    "pause",
    "plan",
    "read_records",
    "work",
]
