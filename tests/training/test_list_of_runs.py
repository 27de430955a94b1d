"""The list of runs: how far each one is, and what is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.interruptions import (
    in_the_step,
)
from support.processes import forks
from support.trainings import kill, short

import accuracy_booster as ab
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


def test_the_split_of_an_accuracy_is_told(grey, tmp_path, capsys):
    """A run that has not ended is known by its validation split; the test comes at the end."""
    run = ab.train("resnet8", data=str(grey), **short(tmp_path, epochs=1, validation=0.4))
    (row,) = list_runs(tmp_path)
    assert (row.split, row.top1) == ("test", run.test.top1)
    (run.output / "model.safetensors").unlink()
    (row,) = list_runs(tmp_path)
    assert (row.split, row.top1) == ("validation", run.history[-1]["validation_top1"])
    capsys.readouterr()
    assert main(["runs", str(tmp_path)]) == 0
    assert f"{row.top1:.2f} (validation)" in " ".join(capsys.readouterr().out.split())
