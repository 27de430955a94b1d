"""The result of a run that has ended, read from its files."""

from __future__ import annotations

import pytest

from accuracy_booster import files
from accuracy_booster.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_run_without_its_result_is_one_line(run, capsys):
    info = files.read_json(run / "run.json")
    del info["test"]
    files.write_json(run / "run.json", info)
    assert main(["train", "--resume", str(run)]) == 2
    assert "does not hold its result" in capsys.readouterr().err
