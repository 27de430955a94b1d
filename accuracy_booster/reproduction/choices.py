"""The choices of `reproduce`. The file imports nothing, so that `--help` imports no torch."""

from __future__ import annotations

import os

RESULTS = "results"
WORK = os.path.join("runs", "reproduce")
EXECUTORS = ("local", "slurm")
