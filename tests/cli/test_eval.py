"""The command `eval`: a line, a table of classes, a page, and JSON."""

from __future__ import annotations

import json
import warnings

import pytest
from support.commands import run as command
from support.trainings import short, train_digits

import accuracy_booster as ab

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return train_digits(tmp_path_factory.mktemp("runs") / "run").output


def test_eval_prints_the_classes_and_writes_the_page(digits, tmp_path, capsys):
    (digits / "report.html").unlink()
    code, out, err = command(capsys, "eval", digits)
    assert code == 0, err
    lines = out.strip().splitlines()
    assert "top-1 error" in lines[0]
    assert "top-5 error" in lines[0]
    assert lines[-1] == str(digits / "report.html")
    measured = ab.evaluate(digits)
    rows = [line.split()[:3] for line in lines if line.strip()[:1].isdigit()]
    expected = [[c.name, str(c.images), f"{c.top1:.1f}"] for c in measured.answers.worst()]
    assert rows == expected
    code, out, _ = command(capsys, "eval", digits, "--json", "--report", tmp_path / "own.html")
    value = json.loads(out)
    assert value["report"] == str(tmp_path / "own.html")
    assert value["confusion"] == measured.confusion.tolist()
    assert [row["top1"] for row in value["by_class"]] == [c.top1 for c in measured.by_class]
    assert value["classes"] == [str(k) for k in range(10)]


@pytest.mark.parametrize(
    "words", [["--no_report"], ["--split", "train"], ["--image_size", "12"], ["--fold"]]
)
def test_the_runs_page_is_of_its_own_result_alone(digits, words, capsys):
    (digits / "report.html").write_text("as it was")
    code, out, err = command(capsys, "eval", digits, *words)
    assert code == 0, err
    assert "report.html" not in out
    assert (digits / "report.html").read_text() == "as it was"


def test_a_page_of_a_folded_network_says_so(digits, tmp_path, capsys):
    code, _, err = command(capsys, "eval", digits, "--fold", "--report", tmp_path / "a.html")
    assert code == 0, err
    assert "folded for inference" in (tmp_path / "a.html").read_text()
    assert "folded for inference" not in (digits / "report.html").read_text()


def test_a_page_that_cannot_be_written(digits, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, out, err = command(capsys, "eval", digits, "--report", tmp_path / "file" / "a.html")
    assert code == 0
    assert "no report: cannot write" in " ".join(err.split())
    assert "top-1 error" in out
    code, _, err = command(capsys, "eval", digits, "--report", tmp_path)
    assert code == 2
    assert "is a directory; name a file, such as report.html" in " ".join(err.split())


def test_many_classes_are_shown_by_the_worst_and_few_without_top5(make_folder, tmp_path, capsys):
    many = make_folder(
        {f"{s}/c{k:02}": 2 for s in ("train", "test") for k in range(21)}, name="many"
    )
    few = make_folder({f"{s}/{k}": 2 for s in ("train", "test") for k in "abc"}, name="few")
    for data in (many, few):
        options = short(tmp_path, f"run-{data.name}", data=data, model="resnet8")
        words = [f"--{name}={value}" for name, value in options.items()]
        code, trained, err = command(capsys, "train", *words)
        assert code == 0, err
        code, out, err = command(capsys, "eval", tmp_path / f"run-{data.name}")
        assert code == 0, err
        assert ("top-5" in out) == ("top-5" in trained) == (data is many)
        assert ("the 10 classes of 21 with the lowest accuracy" in out) == (data is many)
        assert sum(" 2 " in line for line in out.splitlines()) == (10 if data is many else 3)
