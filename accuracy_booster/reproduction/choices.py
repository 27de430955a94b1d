"""What `reproduce` lets one choose, in a file that imports nothing: the command line needs it."""

from __future__ import annotations

import os

RESULTS = "results"
WORK = os.path.join("runs", "reproduce")
EXECUTORS = ("local", "slurm")
