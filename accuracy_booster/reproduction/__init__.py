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

from accuracy_booster.reproduction.count_checks import Check, Counts
from accuracy_booster.reproduction.counting import counts
from accuracy_booster.reproduction.local_queue import work
from accuracy_booster.reproduction.pausing import pause, resume
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import Records, read_records
from accuracy_booster.reproduction.specs import Spec, plan
from accuracy_booster.reproduction.table import Row, Table
from accuracy_booster.reproduction.tables import TABLES, find_tables
from accuracy_booster.reproduction.work_list import Worked

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
    "pause",
    "plan",
    "read_records",
    "resume",
    "work",
]
