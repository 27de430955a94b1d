"""`train --dry_run` tells what a training would be, and writes nothing."""

import json

import pytest
from support.commands import run

import accuracy_booster as ab
from accuracy_booster.training import DryRun
from accuracy_booster.training.dry_run import _duration

FOLDERS = {"train/a": 21, "train/b": 10, "val/a": 6, "val/b": 6, "test/a": 5, "test/b": 4}


@pytest.fixture
def words(make_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_folder(FOLDERS, size=(70, 80))
    given = {"data": root, "batch_size": 8, "epochs": 4, "device": "cpu", "image_size": 16}
    return [f"--{name}={value}" for name, value in {**given, "compile": "off"}.items()]


def test_its_lines(words, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(
        capsys, "train", "--model", "resnet8", "--block", "ab", *words, "--dry-run"
    )
    assert (code, sorted(tmp_path.rglob("*"))) == (0, before)
    for part in (
        *("resnet8, 75,106 parameters on cpu", "3 with 336 parameters, at layer1.0.bn2"),
        *("train 31, test 9, validation 12", "2: a 21, b 10", "3 x 16 x 16, mean 0.485"),
        "8 images: 3 steps an epoch, 12 in 4 epochs; each epoch leaves out 7 images",
        "runs/resnet8-ab-images-s0 (nothing was written)",
    ):
        assert part in out
    assert err.count("training images in batches of 8 are 3 steps an epoch") == 1
    code, out, err = run(capsys, "train", "--model=resnet8", *words, "--print_config")
    assert out.startswith("# the data decide what is null or auto here; train --dry_run shows")


@pytest.mark.parametrize("option", ["--keep=best", "--patience=2"])
def test_it_refuses_what_the_training_would(option, make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = make_folder({"train/a": 8, "train/b": 8, "test/a": 2, "test/b": 2}, size=(16, 16))
    words = ["--model=resnet8", f"--data={root}", option]
    code, _, err = run(capsys, "train", *words, "--dry_run")
    assert code == 2
    assert "needs a validation split beside the test split, and there is none" in err


def test_its_value_is_what_the_training_becomes(words, capsys):
    more = ["--model=resnet8", "--block=none", "--output=o", "--ema=0.9", "--workers=1"]
    _, out, _ = run(capsys, "train", *words, *more, "--dry_run", "--json")
    value = json.loads(out)
    result = ab.train(**{"resume": None, **_options(words, more)})
    config = {name: value["config"][name] for name in ("mean", "num_classes", "batch_size")}
    assert config == {"mean": list(result.config.mean), "num_classes": 2, "batch_size": 8}
    assert value["parameters"] == result.parameters
    assert value["sites"] == []
    sizes = [p.numel() for p in ab.create_model("resnet8", num_classes=2).parameters()]
    # the network, its moving average, and the momentum, of 4 bytes each; and the running statistics
    assert value["held_memory"] > 12 * sum(sizes)
    assert value["held_memory"] < 12.5 * sum(sizes)
    assert value["step_memory"] > 8 * 16 * 16 * 16 * 4  # a feature map
    assert value["seconds"] > 12 * value["step_seconds"] * 0.9


def _options(words, more):
    from accuracy_booster.training import resolve

    given = dict(word.removeprefix("--").split("=") for word in (*words, *more))
    numbers = {name: int(v) for name, v in given.items() if v.isdigit()}
    given = {**given, **numbers, "ema": 0.9}
    return {"model": resolve(given.pop("model"), **given)}


def test_from_python_and_its_errors(make_folder, tmp_path):
    root = make_folder({"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4})
    given = {"data": root, "device": "cpu", "batch_size": 8, "block": "ab"}
    tried = ab.train("resnet8", dry_run=True, output=tmp_path / "run", **given)
    assert isinstance(tried, DryRun)
    assert tried.output == tmp_path / "run"
    assert not tried.output.exists()
    assert (tried.steps, tried.dropped) == (2 * tried.config.epochs, 0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    with pytest.raises(ValueError, match="run"):
        ab.train("resnet8", dry_run=True, output=tmp_path / "run", **given)
    with pytest.raises(ValueError, match="leave out resume"):
        ab.train(resume=tmp_path / "run", dry_run=True)
    with pytest.raises(ValueError, match="cannot take"):
        ab.train("timm/test_vit", dry_run=True, image_size=30, **given)


def test_times_in_words():
    times = [0.0123, 0.9, 3.4567, 119.0, 300.0, 9000.0]
    assert [_duration(t) for t in times] == [
        "12.3 ms",
        "900 ms",
        "3.46 s",
        "119 s",
        "5 min",
        "2.5 h",
    ]
