"""The paper's tables, each made again by one call and set beside what is printed."""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# public name: the file that defines it
_PUBLIC = {
    "TABLES": "tables",
    "Check": "counting",
    "Counts": "counting",
    "Places": "places",
    "Record": "records",
    "Records": "records",
    "Row": "table",
    "Spec": "specs",
    "Table": "table",
    "Worked": "queue",
    "counts": "counting",
    "find_tables": "tables",
    "go_on": "pausing",
    "pause": "pausing",
    "plan": "specs",
    "read_records": "records",
    "work": "queue",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.reproduction.counting import Check as Check
    from accuracy_booster.reproduction.counting import Counts as Counts
    from accuracy_booster.reproduction.counting import counts as counts
    from accuracy_booster.reproduction.pausing import go_on as go_on
    from accuracy_booster.reproduction.pausing import pause as pause
    from accuracy_booster.reproduction.places import Places as Places
    from accuracy_booster.reproduction.queue import Worked as Worked
    from accuracy_booster.reproduction.queue import work as work
    from accuracy_booster.reproduction.records import Record as Record
    from accuracy_booster.reproduction.records import Records as Records
    from accuracy_booster.reproduction.records import read_records as read_records
    from accuracy_booster.reproduction.specs import Spec as Spec
    from accuracy_booster.reproduction.specs import plan as plan
    from accuracy_booster.reproduction.table import Row as Row
    from accuracy_booster.reproduction.table import Table as Table
    from accuracy_booster.reproduction.tables import TABLES as TABLES
    from accuracy_booster.reproduction.tables import find_tables as find_tables

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
