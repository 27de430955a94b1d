"""The queue makes each run once, continues after any end, and names what fails."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from support.processes import until
from support.runs import (
    LONG,
    ROWS,
    TINY,
    InThisProcess,
    copied,
    curve,
    epochs_of,
    places,
    queue_process,
    specs,
)

from accuracy_booster.errors import CannotWrite
from accuracy_booster.files import read_json
from accuracy_booster.reproduction import Row, run_process, work
from accuracy_booster.reproduction.work_folder import running


def test_a_run_whose_result_is_damaged_is_made_again(made, tmp_path, capsys, in_this_process):
    here = replace(copied(made, tmp_path), work=made / "work")
    path = here.results / f"{specs()[0].name}.json"
    before = path.read_text()
    path.write_text(before[:100])
    worked = work(specs(), here)
    assert len(worked.done) == worked.there == 1
    err = capsys.readouterr().err
    assert f"left out {path.name}" in err
    log = (here.work / f"{specs()[0].name}.log").read_text()
    assert f"it is now {path.name}.left-out" in log
    assert path.with_name(f"{path.name}.left-out").read_text() == before[:100]
    assert read_json(path)["values"] == json.loads(before)["values"]


def test_a_killed_queue_continues_to_the_same_result(uninterrupted, tmp_path):
    process = queue_process(tmp_path, LONG)
    until(lambda: epochs_of(tmp_path) >= 2)
    process.kill()
    process.wait()
    here = places(tmp_path)
    # the process of the run ends with that of the queue, and leaves a checkpoint
    until(lambda: running(here) is None)
    before = epochs_of(tmp_path)
    assert before < 12, "it was killed too late to test anything"
    (record,) = work(specs(LONG), here).done
    assert record.values == uninterrupted.values
    assert curve(record) == curve(uninterrupted)
    log = (here.work / f"{specs(LONG)[0].name}.log").read_text()
    assert "going on from" in log


def test_a_signal_ends_the_queue_and_its_run(tmp_path):
    process = queue_process(tmp_path, LONG)
    until(lambda: epochs_of(tmp_path) >= 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    assert "the same command goes on" in (tmp_path / "stderr").read_text()
    assert running(places(tmp_path)) is None
    assert not list((tmp_path / "results").glob("*.json"))


def test_a_work_folder_that_is_removed_is_told(made, tmp_path, monkeypatch):
    class Removing(InThisProcess):
        def __init__(self, spec, places, *, log):
            shutil.rmtree(places.work)
            self.returncode = 1

    monkeypatch.setattr(run_process, "start", Removing)
    monkeypatch.setattr(run_process, "last_line", lambda log: "gone")
    with pytest.raises(CannotWrite, match=r"cannot write .*\.log: No such file"):
        work(specs(), places(tmp_path))


def test_a_run_that_fails_is_named_and_the_others_are_made(tmp_path, capsys, in_this_process):
    bad = Row("too wide", "resnet8", "gap | dense(groups=7) | bn | sigmoid")
    table = replace(TINY, rows=(bad, ROWS[0]))
    worked = work(specs(table), places(tmp_path))
    assert [record.spec.block for record in worked.done] == ["none"]
    ((name, reason),) = worked.failed.items()
    assert "recipe" in name
    assert "groups=7" in reason


def test_a_full_disk_stops_the_queue_which_says_how_to_continue(tmp_path, monkeypatch):
    words = "print('No space left on device', file=sys.stderr)"
    code = f"import sys; {words}; sys.exit({run_process.NO_ROOM})"

    def start(spec, places, *, log):
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=log)

    monkeypatch.setattr(run_process, "start", start)
    with pytest.raises(CannotWrite, match=r"No space left.*the same command goes on"):
        work(specs(), places(tmp_path))
