"""A pause stops the queue without loss, and resuming continues it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from support.processes import until
from support.runs import LONG, copied, curve, epochs_of, places, queue_process, specs

from accuracy_booster.reproduction import read_records, resume, work
from accuracy_booster.reproduction.pausing import PAUSED, is_paused, pause
from accuracy_booster.reproduction.status_report import status
from accuracy_booster.reproduction.work_folder import running

PAUSED_LINE = "paused; `accuracy-booster reproduce continue` goes on"


def test_a_pause_frees_the_machine_and_loses_nothing(uninterrupted, tmp_path):
    here = places(tmp_path)
    process = queue_process(tmp_path, LONG)
    until(lambda: epochs_of(tmp_path) >= 2)
    assert pause(here) == specs(LONG)[0].name
    assert running(here) is None
    until(lambda: PAUSED_LINE in (tmp_path / "stderr").read_text())
    before = epochs_of(tmp_path)
    assert before < 12
    time.sleep(1.5)
    assert epochs_of(tmp_path) == before
    assert process.poll() is None
    found = status([LONG], here, budget="smoke")
    assert found.paused
    assert found.working
    assert found.run == ""
    assert resume(here) is True
    assert resume(here) is False
    assert process.wait(120) == 0
    (record,) = read_records(here.results).found.values()
    assert curve(record) == curve(uninterrupted)


def test_a_paused_queue_waits_before_its_first_run(made, tmp_path, in_this_process):
    here = replace(copied(made, tmp_path), work=tmp_path / "work")
    next(here.results.glob("*-ab-*")).unlink()
    here.work.mkdir()
    (here.work / PAUSED).touch()
    began = []
    thread = threading.Thread(target=lambda: began.append(work(specs(), here)))
    thread.start()
    time.sleep(1.5)
    assert not list(here.work.glob("resnet8*"))
    resume(here)
    thread.join(90)
    assert len(began[0].done) == 1
    assert not is_paused(here)
