"""Tests that run in a process of their own, since what they load can end the process later on.

After int8 files of OpenVINO or onnxruntime were made and run, workers of the suite ended now and
then with a segmentation fault, in a garbage collection of a later test. The cause is not known.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLE = "ACCURACY_BOOSTER_OWN_PROCESS"
only_in_own_process = pytest.mark.skipif(
    VARIABLE not in os.environ, reason="test_quantising_openvino.py runs it in another process"
)


def run_tests(*files: Path) -> str:
    """The output of pytest for files whose tests have the mark, in a process of their own."""
    words = ["-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--tb=short", *map(str, files)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    ended = subprocess.run(
        [sys.executable, *words],
        env={**environment, VARIABLE: "1"},
        cwd=files[0].parents[2],
        capture_output=True,
        text=True,
    )
    return ended.stdout + ended.stderr
