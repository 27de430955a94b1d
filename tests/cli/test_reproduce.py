"""The commands of `reproduce`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.runs import TINY, make_here, refuse

from accuracy_booster.cli import main
from accuracy_booster.reproduction import run_process, tables


@pytest.fixture
def tiny_table(monkeypatch):
    monkeypatch.setitem(tables.TABLES, "tiny", TINY)


@pytest.fixture
def no_process(monkeypatch):
    """A test fails if it starts a run."""
    monkeypatch.setattr(run_process, "start", refuse)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the runs and results of `TINY`."""
    folder = tmp_path_factory.mktemp("made")
    assert len(make_here(TINY, folder)) == 2
    return folder


def test_the_commands(made, tiny_table, capsys, monkeypatch, no_process):
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
def test_bad_input_is_one_line(words, said, tiny_table, tmp_path, monkeypatch, capsys, no_process):
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    assert main(["reproduce", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.splitlines()[-1].startswith("accuracy-booster: error: ")
    assert "Traceback" not in err
