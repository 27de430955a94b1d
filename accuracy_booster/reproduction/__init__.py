"""The paper's tables, made again: one command for each, and our numbers beside the printed ones.

Where to find what:

declared    `table` (what a table consists of), `paper_tables`, `own_tables`, `tables`, `budgets`,
            `specs` (from a row to a run), `printed_counts` (the paper's counts)
counted     `counting`, `counting_table_1`, `count_checks`
made        `performing` makes one run; `local_queue` makes them in processes (`run_process`) on
            this machine, and `slurm_queue` as jobs (`slurm_job`) of a cluster
kept        `records`, `record_checks`, `environment`; `places` and `known_data` find the inputs
concluded   `verdicts` (the rule), `comparing` (one table), `findings` (all tables)
reported    `sections` and `table_section` say it; `markdown`, `readme`, `html_page` and `figures`
            lay it out; `report` writes the files
"""

from typing import TYPE_CHECKING

from accuracy_booster import lazy

# {public name: the file that defines it}
_PUBLIC = {
    "TABLES": "tables",
    "Check": "count_checks",
    "Counts": "count_checks",
    "Places": "places",
    "Record": "record",
    "Records": "result_files",
    "Row": "table",
    "Spec": "specs",
    "Table": "table",
    "Worked": "work_list",
    "counts": "counting",
    "find_tables": "tables",
    "pause": "pausing",
    "plan": "specs",
    "read_records": "result_files",
    "resume": "pausing",
    "work": "local_queue",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from accuracy_booster.reproduction.count_checks import Check as Check
    from accuracy_booster.reproduction.count_checks import Counts as Counts
    from accuracy_booster.reproduction.counting import counts as counts
    from accuracy_booster.reproduction.local_queue import work as work
    from accuracy_booster.reproduction.pausing import pause as pause
    from accuracy_booster.reproduction.pausing import resume as resume
    from accuracy_booster.reproduction.places import Places as Places
    from accuracy_booster.reproduction.record import Record as Record
    from accuracy_booster.reproduction.result_files import Records as Records
    from accuracy_booster.reproduction.result_files import read_records as read_records
    from accuracy_booster.reproduction.specs import Spec as Spec
    from accuracy_booster.reproduction.specs import plan as plan
    from accuracy_booster.reproduction.table import Row as Row
    from accuracy_booster.reproduction.table import Table as Table
    from accuracy_booster.reproduction.tables import TABLES as TABLES
    from accuracy_booster.reproduction.tables import find_tables as find_tables
    from accuracy_booster.reproduction.work_list import Worked as Worked

__getattr__, __dir__ = lazy.names(__name__, _PUBLIC)
