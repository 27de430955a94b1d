"""A run removes nothing that is not its own, whenever it is killed."""

from __future__ import annotations

import shutil

import pytest
from support.trainings import (
    contents,
    digit_words,
    equal_weights,
    train_digits,
)

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.cli import main
from accuracy_booster.training.lock import LOCK
from accuracy_booster.training.run_files import resume_command

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {"checkpoints/mine.pt": "x", "model.safetensors": "W", "config.json": "{}"},
        {"config.yaml": "MODEL:\n  NAME: of another program\n"},
        {"config.yaml": "model: resnet8\nanother: program\n"},
        {"run.json": '{"of": "another program"}'},
        {"notes.txt": ""},
        {".hidden": ""},
    ],
    ids=lambda files: next(iter(files)),
)
def test_a_directory_that_is_no_run_is_refused(files, overwrite, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "hf"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = contents(folder)
    for command in ("train", "compare"):
        given = digit_words(command, folder, overwrite=overwrite)
        given = [w for w in given if command == "train" or not w.startswith("--block=")]
        assert main(given) == 2
        assert "holds other files" in capsys.readouterr().err
        assert contents(folder) == before
    monkeypatch.chdir(folder)
    assert main(digit_words("train", ".", overwrite=overwrite)) == 2
    assert contents(folder) == before


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(two_runs, run):
    pytest.importorskip("tensorboard")
    other = next((two_runs / "s2" / "checkpoints").glob("*.safetensors"))
    mine = {
        **{"notes.txt": b"x", "checkpoints/mine.pt": b"x", "checkpoints/deep/best.pt": b"x"},
        **{"checkpoints/half.partial": b"x", "tensorboard/mine.log": b"x"},
        **{"tensorboard/events.out.tfevents.1.mine": b"x"},
        f"checkpoints/{other.name}": other.read_bytes(),
    }
    for name, content in mine.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    first = contents(run)
    train_digits(run, overwrite=True, lr=0.05)
    after = contents(run)
    assert {name: after.get(name) for name in mine} == mine
    replaced = set(first) - set(mine) - {LOCK}
    assert not [name for name in replaced if after.get(name) == first[name]]
    logs = [name for name in after if name.startswith("tensorboard/") and name not in mine]
    assert len(logs) == 1
    assert len([n for n in after if n.startswith("checkpoints/epoch") and n not in mine]) == 1


def test_names_in_run_json_do_not_lead_out_of_the_run(run, tmp_path):
    outside = tmp_path / "events.out.tfevents.mine"
    outside.write_text("x")
    info = files.read_json(run / "run.json")
    names = ["../events.out.tfevents.mine", "tensorboard/../../events.out.tfevents.mine"]
    files.write_json(run / "run.json", {**info, "files": [*names, str(outside), 3]})
    train_digits(run, overwrite=True)
    assert outside.exists()


@pytest.mark.parametrize("last", ["lock", "half of run.json", "run.json", "half of config.yaml"])
def test_a_run_that_was_killed_as_it_began_is_begun_again(last, two_runs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).touch()
    if last == "half of run.json":
        (run / ".run.json.partial").write_text("{")
    if last in ("run.json", "half of config.yaml"):
        shutil.copy(two_runs / "s1" / "run.json", run)
    if last == "half of config.yaml":
        (run / ".config.yaml.partial").write_text("mod")
    train_digits(run)
    assert equal_weights(run, two_runs / "s1")


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "epoch"])
def test_a_run_that_was_killed_as_it_was_overwritten_is_overwritten_again(
    name, two_runs, run, monkeypatch
):
    """Before the new run's run.json, its configuration, its first checkpoint."""
    (run / "notes.txt").write_text("mine")
    real = type(run).replace

    def replace(self, target):
        if target.name.startswith(name):
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(run), "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            train_digits(run, seed=2, overwrite=True)
    train_digits(run, seed=2, overwrite=True)
    assert equal_weights(run, two_runs / "s2")
    assert (run / "notes.txt").read_text() == "mine"


def test_the_command_that_goes_on_is_that_of_the_runs_task(tmp_path):
    info = {"classes": ["a"], "versions": {}}
    files.write_json(tmp_path / "run.json", {**info, "task": "detection"})
    (tmp_path / "config.yaml").write_text("")
    told = f"accuracy-booster detect train --resume {tmp_path}"
    with pytest.raises(ValueError, match=f"has not ended.*: {told}$"):
        ab.evaluate(tmp_path)
    files.write_json(tmp_path / "run.json", info)  # of an older version
    assert resume_command(tmp_path) == f"accuracy-booster train --resume {tmp_path}"
