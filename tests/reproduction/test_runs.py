"""The queue: runs are made once and go on after anything; results count only if they are sound."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.errors import CannotWrite, TrainingStopped
from accuracy_booster.files import HASH, hash_of, read_json, write_json
from accuracy_booster.reproduction import (
    Places,
    Row,
    Table,
    go_on,
    local_queue,
    performing,
    plan,
    read_records,
    run_process,
    tables,
    work,
)
from accuracy_booster.reproduction.pausing import PAUSED, is_paused, pause
from accuracy_booster.reproduction.work_folder import running
from accuracy_booster.reproduction.record import Record
from accuracy_booster.reproduction.result_files import Records, write_record
from accuracy_booster.reproduction.specs import spec_of
from accuracy_booster.reproduction.status_report import status
from accuracy_booster.reproduction.table import TIME
from accuracy_booster.reproduction.time_left import hours_left, seconds_of

ROWS = tuple(Row(block, "resnet8", block) for block in ("none", "ab"))
TINY = Table("tiny", "a tiny network on the digits", "cifar10", ROWS, seeds=1)
PAUSED_LINE = "paused; `accuracy-booster reproduce continue` goes on"
NETWORKS = ("resnet8", "resnet14")
LONG = replace(TINY, name="long", rows=ROWS[1:], settings={"epochs": 12, "batch_size": 128})


def places(folder: Path) -> Places:
    return Places(results=folder / "results", work=folder / "work")


def specs(table: Table = TINY, seeds: int = 1):
    return list(plan([table], "smoke", seeds))


@pytest.fixture(scope="module", autouse=True)
def _one_thread_in_children():
    """As in this process: sums round differently with more threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


class Here:
    """In place of a process of a run: the same in this one, which has imported everything."""

    stdin = None

    def __init__(self, spec, places, *, log):
        with redirect_stderr(log):
            self.returncode = run_process.make(spec, places)

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs are made in this process, which takes a tenth of the time."""
    monkeypatch.setattr(run_process, "start", Here)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny table, made."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_process, "start", Here)
        assert len(work(specs(), places(folder)).done) == 2
    return folder


@pytest.fixture
def no_child(monkeypatch):
    """A process that would be started is a failure."""

    def refuse(*_, **__):
        pytest.fail("a run was started")

    monkeypatch.setattr(run_process, "start", refuse)


def copied(made: Path, folder: Path) -> Places:
    """The results of `made`, in a folder of their own."""
    (folder / "results").mkdir()
    for path in (made / "results").iterdir():
        (folder / "results" / path.name).write_bytes(path.read_bytes())
    return places(folder)


# --- results


def test_a_result_holds_what_the_run_came_to(made):
    found = read_records(made / "results")
    assert not found.left_out
    assert len(found.found) == 2
    for spec in specs():
        record = found.found[spec.hash, spec.seed]
        run = json.loads((made / "work" / spec.name / "run.json").read_text())
        assert record.values == {"top1": run["test"]["top1"], "top5": run["test"]["top5"]}
        assert record.epochs[-1]["test_top1"] == pytest.approx(record.values["top1"], rel=1e-4)
        assert len(record.epochs) == 1
        assert record.seconds == pytest.approx(run["seconds"], abs=0.1)
        assert record.data["name"] == "digits"
        assert record.data["images"] == {"train": 1437, "test": 360}
        assert record.data["marks"] == hash_of(run["data"])[:16]
        assert record.about["run"] == run["id"]
        assert record.about["packages"]["torch"] == run["versions"]["torch"]
        assert record.about["code"]["package"] == ab.__version__
        assert record.about["processor"]
        text = (made / "results" / f"{spec.name}.json").read_text()
        assert str(made) not in text, "a result names no place of the machine"
        assert len(text) < 10_000


def test_a_run_is_the_training_that_its_table_declares(made, tmp_path):
    (_, spec) = specs()
    record = read_records(made / "results").found[spec.hash, 0]
    again = ab.train(
        *("resnet8",), block="ab", data="digits", epochs=1, seed=0, output=str(tmp_path / "run")
    )
    assert again.test.top1 == record.values["top1"]


def test_what_is_there_is_not_made_again(made, no_child):
    worked = work(specs(), places(made))
    assert (worked.there, worked.done) == (2, [])


def test_a_finished_run_whose_result_is_lost_is_not_trained_again(made, tmp_path, monkeypatch):
    spec = specs()[0]
    there = replace(places(made), results=tmp_path / "results")
    monkeypatch.setattr(performing, "train", lambda *a, **k: _only_found(a, k))
    path = performing.perform(spec, there)
    assert path.read_text().count(spec.hash)
    first = read_records(made / "results").found[spec.hash, 0]
    assert read_records(tmp_path / "results").found[spec.hash, 0].values == first.values


def _only_found(words, options):
    assert "resume" in options, "trained from the start"
    return ab.train(*words, **options)


def _of_another_version(value):
    value["about"]["code"]["version"] += 1


def _of_another_configuration(value):
    value["run"]["options"]["epochs"] = 7


def _with(**values):
    def change(value):
        value["values"].update(values)

    return change


def _without_epochs(value):
    value["epochs"] = []


def _of_another_last_epoch(value):
    value["epochs"][-1]["test_top1"] += 1


def _without_values(value):
    value["values"] = {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_of_another_version, r"of version 2 of the code, and this is version 1"),
        (_of_another_configuration, r"means something else in this version"),
        (_without_values, r"no top-1 and top-5"),
        (_with(top1=151.0), r"not from 0 to 100"),
        (_with(top1=-3), r"not from 0 to 100"),
        (_with(top5=0.0), r"not from 0 to 100"),
        (_with(top1=True), r"True where a finite number must be"),
        (_with(top1="51"), r"'51' where a finite number must be"),
        (_with(top1=float("nan")), r"nan where a finite number must be"),
        (_with(top1=10**400), r"damaged: OverflowError"),
        (_with(top3=50.0), r"no top-1 and top-5"),
        (_without_epochs, r"holds 0 epochs, and its run has 1"),
        (_of_another_last_epoch, r"its last epoch's"),
        (lambda value: value.pop("run"), r"damaged"),
        (lambda value: value.update(epochs=3), r"damaged"),
    ],
)
def test_a_result_that_does_not_count_is_named_and_left_out(change, reason, made, tmp_path, capsys):
    here = copied(made, tmp_path)
    path = here.results / f"{specs()[0].name}.json"
    value = read_json(path)
    change(value)
    write_json(path, value)
    found = read_records(here.results)
    assert len(found.found) == 1
    assert list(found.left_out) == [path]
    assert re.search(reason, found.left_out[path])
    state = status([TINY], here, budget="smoke")
    assert (state.tables[0].done, state.tables[0].runs) == (1, 2)
    assert any(path.name in line for line in state.lines())


@pytest.mark.parametrize("damage", ["cut", "changed", "no hash", "another name", "a directory"])
def test_a_damaged_result_is_named_and_left_out(damage, made, tmp_path):
    here = copied(made, tmp_path)
    path = here.results / f"{specs()[0].name}.json"
    text = path.read_text()
    if damage == "cut":
        path.write_text(text[: len(text) // 2])
    elif damage == "changed":
        path.write_text(text.replace('"top1": ', '"top1": 9'))
    elif damage == "no hash":
        value = json.loads(text)
        del value[HASH]
        path.write_text(json.dumps(value))
    elif damage == "another name":
        path = path.rename(path.with_name("best.json"))
    else:
        path.unlink()
        path.mkdir()
    found = read_records(here.results)
    assert len(found.found) == 1
    assert list(found.left_out) == [path]


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


# --- the queue


def test_folders_that_cannot_be_written_are_told_before_a_run(tmp_path, monkeypatch, no_child):
    def refuse(*_, dir, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(local_queue.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"cannot write to .*results: Read-only file system"):
        work(specs(), places(tmp_path))


def queue_process(folder: Path, table: Table) -> subprocess.Popen:
    """A process that works through a table, as `reproduce run` does."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "from accuracy_booster.reproduction import Places, Spec, work\n"
        "specs = [Spec.from_json(s) for s in json.loads(sys.argv[1])]\n"
        "where = Path(sys.argv[2])\n"
        "work(specs, Places(results=where / 'results', work=where / 'work'))\n"
    )
    listed = json.dumps([spec.to_json() for spec in plan([table], "smoke", 1)])
    with (folder / "stderr").open("w") as log:
        return subprocess.Popen([sys.executable, "-c", code, listed, str(folder)], stderr=log)


def wait_for(condition, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def epochs_of(folder: Path) -> int:
    path = folder / "work" / specs(LONG)[0].name / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_process, "start", Here)
        (record,) = work(specs(LONG), places(folder)).done
    assert len(record.epochs) == 12
    return record


def test_after_kill_nine_it_goes_on_to_the_same_result(uninterrupted, tmp_path):
    process = queue_process(tmp_path, LONG)
    wait_for(lambda: epochs_of(tmp_path) >= 2)
    process.kill()
    process.wait()
    here = places(tmp_path)
    # the run's own process ends with the queue's, and leaves a checkpoint
    wait_for(lambda: running(here) is None)
    before = epochs_of(tmp_path)
    assert before < 12, "it was killed too late to test anything"
    (record,) = work(specs(LONG), here).done
    assert record.values == uninterrupted.values
    assert curve(record) == curve(uninterrupted)
    log = (here.work / f"{specs(LONG)[0].name}.log").read_text()
    assert "going on from" in log


def curve(record: Record) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["test_top1"]) for row in record.epochs]


def test_a_pause_frees_the_machine_and_loses_nothing(uninterrupted, tmp_path):
    here = places(tmp_path)
    process = queue_process(tmp_path, LONG)
    wait_for(lambda: epochs_of(tmp_path) >= 2)
    assert pause(here) == specs(LONG)[0].name
    assert running(here) is None
    wait_for(lambda: PAUSED_LINE in (tmp_path / "stderr").read_text())
    before = epochs_of(tmp_path)
    assert before < 12
    time.sleep(1.5)
    assert epochs_of(tmp_path) == before
    assert process.poll() is None
    found = status([LONG], here, budget="smoke")
    assert found.paused
    assert found.working
    assert found.run == ""
    assert go_on(here) is True
    assert go_on(here) is False
    assert process.wait(120) == 0
    (record,) = read_records(here.results).found.values()
    assert curve(record) == curve(uninterrupted)


def test_a_signal_ends_the_queue_and_its_run(tmp_path):
    process = queue_process(tmp_path, LONG)
    wait_for(lambda: epochs_of(tmp_path) >= 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    assert "the same command goes on" in (tmp_path / "stderr").read_text()
    assert running(places(tmp_path)) is None
    assert not list((tmp_path / "results").glob("*.json"))


def test_a_work_folder_that_is_removed_is_told(made, tmp_path, monkeypatch):
    class Removing(Here):
        def __init__(self, spec, places, *, log):
            shutil.rmtree(places.work)
            self.returncode = 1

    monkeypatch.setattr(run_process, "start", Removing)
    monkeypatch.setattr(run_process, "last_line", lambda log: "gone")
    with pytest.raises(CannotWrite, match=r"cannot write .*\.log: No such file"):
        work(specs(), places(tmp_path))


def test_two_queues_do_not_work_in_one_folder(tmp_path, no_child):
    from accuracy_booster.training.lock import locked

    here = places(tmp_path)
    here.work.mkdir()
    with locked(here.work), pytest.raises(ValueError, match="another `reproduce run` works in"):
        work(specs(), here)


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
    go_on(here)
    thread.join(90)
    assert len(began[0].done) == 1
    assert not is_paused(here)


def test_a_run_that_fails_is_named_and_the_others_are_made(tmp_path, capsys, in_this_process):
    bad = Row("too wide", "resnet8", "gap | dense(groups=7) | bn | sigmoid")
    table = replace(TINY, rows=(bad, ROWS[0]))
    worked = work(list(plan([table], "smoke", 1)), places(tmp_path))
    assert [record.spec.block for record in worked.done] == ["none"]
    ((name, reason),) = worked.failed.items()
    assert "recipe" in name
    assert "groups=7" in reason


def test_a_training_that_diverges_is_a_result_without_accuracy(tmp_path, in_this_process):
    table = replace(TINY, rows=ROWS[:1], settings={"lr": 1e30})
    here = places(tmp_path)
    (record,) = work(list(plan([table], "smoke", 1)), here).done
    assert record.values == {}
    assert "not finite" in record.diverged
    (again,) = read_records(here.results).found.values()
    assert again.diverged == record.diverged
    assert work(list(plan([table], "smoke", 1)), here).there == 1


def test_a_full_disk_stops_the_queue_which_says_how_to_go_on(tmp_path, monkeypatch):
    def full(*_):
        raise CannotWrite("cannot write x: No space left on device")

    monkeypatch.setattr(performing, "perform", full)
    spec = specs()[0]
    with (tmp_path / "log").open("w") as log:
        assert Here(spec, places(tmp_path), log=log).poll() == run_process.NO_ROOM

    def while_training(*_):
        try:
            full()
        except CannotWrite as e:
            raise TrainingStopped("the last checkpoint is intact") from e

    monkeypatch.setattr(performing, "perform", while_training)
    with (tmp_path / "log").open("w") as log:
        assert Here(spec, places(tmp_path), log=log).poll() == run_process.NO_ROOM
    assert (tmp_path / "log").read_text() == "cannot write x: No space left on device\n"

    code = (
        f"import sys; print('No space left on device', file=sys.stderr); sys.exit({run_process.NO_ROOM})"
    )

    def start(spec, places, *, log):
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=log)

    monkeypatch.setattr(run_process, "start", start)
    with pytest.raises(CannotWrite, match=r"No space left.*the same command goes on"):
        work(specs(), places(tmp_path))


def test_a_damaged_run_is_kept_and_made_anew(made, tmp_path, capsys):
    spec = specs()[0]
    here = places(tmp_path)
    folder = here.run(spec)
    folder.parent.mkdir()
    for name in ("config.yaml", "run.json"):
        folder.mkdir(exist_ok=True)
        content = (made / "work" / spec.name / name).read_bytes()
        (folder / name).write_bytes(content if name == "config.yaml" else content[:50])
    performing.perform(spec, here)
    first = read_records(made / "results").found[spec.hash, 0]
    assert read_records(here.results).found[spec.hash, 0].values == first.values
    assert (here.work / f"{spec.name}.damaged" / "run.json").stat().st_size == 50


def test_a_run_has_the_lowest_priority(tmp_path):
    spec = specs(LONG)[0]
    process = run_process.start(spec, places(tmp_path))
    try:
        wait_for(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) == run_process.LOWEST)
    finally:
        run_process.stop(process)
    assert process.returncode


# --- times


def test_a_table_of_times_is_made(tmp_path, in_this_process):
    rows = tuple(Row(block, "resnet8", block) for block in ("none", "ab"))
    table = Table("t", "times", "", rows, measures=TIME)
    (spec,) = plan([table], "smoke", 1)
    spec = replace(spec, options={**spec.options, "input_size": (3, 8, 8)})
    (record,) = work([spec], places(tmp_path)).done
    assert set(record.values) == {"none", "ab"}
    assert all(0 < value < 10 for value in record.values.values())


# --- how long


def test_hours_come_from_runs_that_have_ended():
    table = replace(TINY, data="cifar10")
    (none, boosted) = plan([table], "short", 1)
    more = next(iter(plan([table], "short", 2)))
    later = list(plan([table], "short", 2))[2]
    assert later.hash == none.hash
    epochs = [{"epoch": float(i + 1)} for i in range(10)]
    ended = Record(none, {"top1": 50.0, "top5": 90.0}, epochs, 1000.0)
    records = Records({ended.key: ended}, {})
    assert seconds_of(later, records) == 1000.0  # the same configuration
    assert seconds_of(boosted, records) == 1000.0  # the same network, ten epochs
    deeper = spec_of(table, Row("x", "resnet14", "none"), "short", 0)
    macs = {name: ab.complexity(ab.create_model(name), (3, 32, 32)).macs for name in NETWORKS}
    ratio = macs["resnet14"] / macs["resnet8"]
    assert seconds_of(deeper, records) == pytest.approx(1000.0 * ratio)
    assert hours_left([boosted, later], records) == "about 0.6 h left"
    assert hours_left([], records) == "nothing is left"
    assert "unknown" in hours_left([more], Records({}, {}))


# --- commands


@pytest.fixture
def tiny_table(monkeypatch):
    monkeypatch.setitem(tables.TABLES, "tiny", TINY)


def test_the_commands(made, tiny_table, capsys, monkeypatch, no_child):
    monkeypatch.chdir(made)
    words = ["--results", "results", "--work", "work", "--budget", "smoke"]
    assert main(["reproduce", "run", "tiny", *words]) == 0
    assert "0 of 2 runs made, 2 were there" in capsys.readouterr().out
    assert main(["reproduce", "status", "tiny", *words, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["tables"][0] == {
        **{"table": "tiny", "title": TINY.title, "done": 2, "runs": 2},
        "left": "nothing is left",
    }
    assert value["results"] == 2
    assert main(["reproduce", "pause", *words[2:4]]) == 0
    assert main(["reproduce", "status", "tiny", *words]) == 0
    out = capsys.readouterr().out
    assert "paused; accuracy-booster reproduce continue goes on" in out
    assert "2/2" in out
    assert main(["reproduce", "continue", *words[2:4]]) == 0
    assert main(["reproduce", "tables"]) == 0
    out = capsys.readouterr().out
    assert "goes on" in out
    assert "finetune" in out


def test_the_report_as_a_command(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("# Mine\n<!-- reproduction -->\n<!-- /reproduction -->\nend\n")
    words = ["reproduce", "report", "--results", str(made / "results"), "--readme", "README.md"]
    assert main([*words, "--html", "page.html", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["results"] == 0  # of a table that there is
    assert {Path(p).name for p in value["written"]} == {
        *("reproduction.md", "gain.svg", "README.md", "page.html")
    }
    assert Path("README.md").read_text().startswith("# Mine\n<!-- reproduction -->\nNo table")
    assert main([*words[:-2], "--output", "."]) == 2
    assert "name a file, such as reproduction.md" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report"], "there is no folder of results"),
        (["run", "tinny"], "unknown table 'tinny'; nearest: tiny"),
        (["run", "2"], "imagenet is not at hand"),
        (["run", "9"], "imagenet is not at hand"),
        (["run", "tiny", "--budget", "long"], "unknown budget 'long'"),
        (["run", "tiny", "--seeds", "0"], "seeds=0 must be from 1"),
        (["run", "tiny", "--seeds", "x"], "--seeds"),
        (["run", "tiny", "--executor", "slrm"], "unknown executor 'slrm'; nearest: slurm"),
        (["run", "tiny", "--slurm-jobs", "2"], "--slurm-jobs is for --executor slurm"),
        (["status", "tinny"], "unknown table"),
        (["stats"], "unknown reproduce command 'stats'; nearest: status"),
        (["run", "tiny", "--work", "a-file"], "a-file"),
        (["run", "tiny", "--results", "a-file"], "a-file"),
        (["pause", "--work", "a-file"], "a-file"),
        (["pause", "--work", "nowhere"], "there is no folder"),
        (["continue", "--work", "nowhere"], "there is no folder"),
        (["status", "--work", "a-file"], "a-file"),
        (["status", "--results", "a-file"], "a-file"),
        (["run", "tiny", "--data-dir", "nowhere"], "nowhere; give --data-dir one that is there"),
        (["run", "small,tinny"], "unknown table 'tinny'; nearest: tiny"),
        (["report", "--results", ".", "--readme", "nothing.md"], "cannot read nothing.md"),
    ],
)
def test_bad_input_is_one_line(words, said, tiny_table, tmp_path, monkeypatch, capsys, no_child):
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    assert main(["reproduce", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.splitlines()[-1].startswith("accuracy-booster: error: ")
    assert "Traceback" not in err


def test_write_record_names_the_file_after_its_run(tmp_path):
    spec = specs()[0]
    path = write_record(tmp_path, Record(spec, {"top1": 1.0, "top5": 2.0}))
    assert re.fullmatch(r"resnet8-none-digits-[0-9a-f]{12}-s0\.json", path.name)
    assert path.name == f"{spec.name}.json"


def test_a_run_imports_nothing_from_the_working_directory(made, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    spec = specs()[0]
    process = run_process.start(spec, replace(places(made), results=tmp_path / "results"))
    assert process.wait(60) == 0
    assert (tmp_path / "results" / f"{spec.name}.json").exists()
