"""The command `inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.inspected_runs import train_with_gates
from support.observed_detectors import make_coco_folder

import accuracy_booster as ab
from accuracy_booster.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained ResNet-8 with AB; nobody changes it."""
    return train_with_gates(tmp_path_factory.mktemp("inspect") / "run")


def command(capsys, *words):
    code = main(["inspect", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_command(run, capsys, tmp_path):
    found = ab.inspect(run, percents=(0, 10, 50))
    report = tmp_path / "report.html"
    code, out, _ = command(capsys, run, "--percents", "0,10,50", "--output", report)
    assert code == 0
    assert report.read_text().startswith("<!")
    for line in (
        f"The network is right on {found.top1:.2f} %",
        "Conv4_1",
        "random: top-1 %",
        str(report),
    ):
        assert line in out
    code, out, _ = command(capsys, run, "--percents=0,10,50", "--output", report, "--json")
    told = json.loads(out)
    assert told.pop("report") == str(report)
    assert (code, told) == (0, json.loads(json.dumps(found.to_dict())))
    code, out, _ = command(capsys, run, "--percents", "5", "--images", 20, "--layer", "conv2_1")
    assert code == 0
    assert "zeroed" in out
    code, out, _ = command(capsys, run, "--percents", "none", "--images", 20)
    assert code == 0
    assert "zeroed" not in out
    assert (run / "gates.html").is_file()
    more = ("--percents", "none", "--separate", "3,8")
    code, out, _ = command(capsys, run, *more, "--output", report, "--json")
    told = json.loads(out)["separating"]
    wanted = found.gates.separating("3", "8")
    assert [(s["site"], s["channel"]) for s in told] == [(s.site, s.channel) for s in wanted]
    code, out, _ = command(capsys, run, *more, "--output", report)
    assert f"{wanted[0].distance:+.2f}" in out
    assert "mean, 3" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "Conv9_1"], "unknown layer 'Conv9_1'"),
        (["--percents", "5,x"], "--percents='5,x' must be numbers such as 5,10,25, or none"),
        (["--percents", "nan"], "percent=nan must be a number from 0 to 100"),
        (["--by", "mean"], "unknown ranking 'mean'"),
        (["--split", "val"], "split='val' must be"),
        (["--images", "0"], "images=0 must be a whole number >= 1"),
        (["--images", "many"], "--images"),
        (["--output", "."], ". is a directory; name a file, such as gates.html"),
        (["--layer", "4"], "unknown layer '4'"),
        (["--separate", "3"], "--separate='3' names 1 classes; give two, as cat,dog"),
        (["--separate", "3,cat"], "unknown class 'cat'; known: 0, 1, 2"),
        (["--layers", "a"], "unknown option '--layers'"),
    ],
)
def test_the_command_refuses_bad_input_in_one_line(run, capsys, words, message):
    code, out, err = command(capsys, run, *words)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_the_commands_help(capsys):
    assert main(["inspect", "--help"]) == 0
    out = capsys.readouterr().out
    for word in ("RUN", "--layer", "--percents", "--by", "--images", "--output", "--split"):
        assert word.lower() in out.lower()


def test_inspect_of_a_detector_is_refused_in_one_line(tmp_path, capsys):
    make_coco_folder(tmp_path)
    (tmp_path / "val").rename(tmp_path / "train")
    file = tmp_path / "annotations" / "instances_val.json"
    (tmp_path / "annotations" / "instances_train.json").write_bytes(file.read_bytes())
    file.rename(tmp_path / "v.json")
    run = tmp_path / "run"
    ab.detection.train(
        *("timm/test_resnet",),
        **{"data": str(tmp_path), "val_annotations": str(tmp_path / "v.json")},
        **{"val_images": str(tmp_path / "train"), "epochs": 1, "min_size": (48,), "max_size": 64},
        **{"output": str(run), "box_batch_size_per_image": 4, "rpn_post_nms_top_n_train": 4},
    )
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("accuracy-booster: error: ")
    assert "is of a detector" in last
    assert "ab.gates(ab.detection.load(RUN)" in last
