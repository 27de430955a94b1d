"""Tables whose runs tests make as Slurm jobs, and a process that submits and follows them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from accuracy_booster.reproduction import Row
from support.runs import ROWS, TINY

WRONG = Row("groups that do not fit", "resnet8", "gap | dense(groups=7) | bn | sigmoid")
THREE = replace(TINY, rows=(*ROWS, WRONG))  # the third run fails
EPOCHS = 16
LONG = replace(TINY, rows=ROWS[1:], settings={"epochs": EPOCHS, "batch_size": 128})
OPTIONS = "time=120,cpus-per-task=1"
FOLLOWER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.runs import places, specs
from support.slurm_runs import LONG, OPTIONS
from accuracy_booster.reproduction import slurm_following
from accuracy_booster.reproduction.slurm_options import parse_options
from accuracy_booster.reproduction.slurm_queue import submit
slurm_following.LONGEST = 1.0
submit(specs(LONG), places(Path(sys.argv[1])), options=parse_options(OPTIONS))
"""


def follower(folder: Path, lines: Path) -> subprocess.Popen[bytes]:
    """A process that submits the long run and follows it; its stderr goes into a file."""
    script = FOLLOWER.format(tests=str(Path(__file__).parents[1]))
    with lines.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", script, str(folder)], stderr=file)
