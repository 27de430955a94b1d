"""The list of runs: how far each one is, and what is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.interruptions import (
    in_the_step,
)
from support.processes import forks
from support.trainings import (
    kill,
)

from accuracy_booster.cli import main
from accuracy_booster.training import (
    list_runs,
)


@forks
def test_runs(data, reference, tmp_path, capsys):
    done = reference()
    root = tmp_path / "runs"
    shutil.copytree(done, root / "deep" / "done")
    kill(data, root / "stopped", tmp_path, lambda: in_the_step(6))
    kill(data, root / "early", tmp_path, lambda: in_the_step(1))
    for name, damage in (("bad", "config.yaml"), ("worse", "run.json")):
        shutil.copytree(done, root / name)
        (root / name / damage).write_text("{")
    listed = {r.path.name: r for r in list_runs(root)}
    assert set(listed) == {"done", "stopped", "early", "bad", "worse"}
    test = json.loads((done / "run.json").read_text())["test"]
    assert (listed["done"].state, listed["done"].top1) == ("finished", test["top1"])
    row = listed["stopped"]
    assert (row.state, row.epoch, row.epochs, row.seed) == ("stopped", 1, 2, 3)
    assert (row.model, row.block) == ("resnet8", "ab")
    assert row.top1 is not None
    assert listed["early"].state == "stopped before its first checkpoint"
    assert listed["early"].top1 is None
    for name in ("bad", "worse"):
        assert listed[name].state.startswith("damaged: ")
    assert main(["runs", str(root)]) == 0
    out = capsys.readouterr().out
    assert "--resume RUN goes on" in out
    for word in ("finished", "stopped", "damaged"):
        assert word in out
    assert main(["runs", str(root), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [Path(row["path"]).name for row in rows] == [r.path.name for r in list_runs(root)]
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
