"""A run removes nothing that is not its own, and takes nothing that is another's."""

from __future__ import annotations

import json
import os
import shutil
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from accuracy_booster.training import classification, network_building, opening_data, run_to_end, trainer
from accuracy_booster.training.accelerator import make_accelerator
from accuracy_booster.training.classification import Classification
from accuracy_booster.training.freezing import freeze
from accuracy_booster.training.initial_weights import start_from_weights
from accuracy_booster.training.learning_rate import rate_factor, set_rates
from accuracy_booster.training.network_building import build_network
from accuracy_booster.training.network_files import load_network
from accuracy_booster.training.network_outputs import split_outputs
from accuracy_booster.training.opening_data import fill_in, open_data, open_data_of_new_run
from accuracy_booster.training.optimizer import make_optimizer
from accuracy_booster.training.train_config import TrainConfig
from accuracy_booster.training.trainer import Trainer
from support.interruptions import before_the_result, poisoned
import itertools
from support.trainings import DIGITS, SIZE_32, SMALL, Plain, assert_equal_ends, contents, digit_words, end_state, equal_tensors, equal_weights, finish, flip, kill, logits_of, make_data, new_trainer, options, randomise, replace_network, run_or_resume, short, signalled, small, stored, train_digits, weights
import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.analysis import comparison
from accuracy_booster.cli import main
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import checkpoint, list_runs, trainer
from accuracy_booster.training.lock import LOCK, locked
from accuracy_booster.training.run_directory import Run

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




def test_a_comparison_is_overwritten_as_a_whole(tmp_path):
    where = tmp_path / "c"
    options = {n: v for n, v in DIGITS.items() if n not in ("model", "block")}
    ab.compare("resnet8", blocks=["none", "ab"], seeds=1, output=str(where), **options)
    (where / "none-s1" / "notes.txt").write_text("mine")
    (where / "mine").mkdir()
    before = contents(where)
    with pytest.raises(ValueError, match=r"already holds a comparison; go on .*--resume"):
        ab.compare("resnet8", blocks=["se"], seeds=1, output=str(where), **options)
    assert contents(where) == before
    ab.compare("resnet8", blocks=["se"], seeds=1, output=str(where), overwrite=True, **options)
    names = {p.name for p in where.iterdir()}
    assert names == {"compare.json", "results.json", "report.html", "se-s1", "none-s1", "mine"}
    assert [p.name for p in (where / "none-s1").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("more", [{"accumulate": 64, "batch_size": 64}, {"block": "nothing"}])
def test_settings_that_are_refused_leave_nothing_behind(more, tmp_path):
    assert main(digit_words("train", tmp_path / "run", **more)) == 2
    assert not (tmp_path / "run").exists()


def test_a_comparison_that_was_killed_as_it_was_overwritten_is_overwritten_again(
    tmp_path, monkeypatch
):
    where = tmp_path / "c"
    compare(where, blocks=["none"])
    (where / "notes.txt").write_text("mine")
    (where / "none-s1" / "notes.txt").write_text("mine")
    compare(where, blocks=["none"], overwrite=True)
    assert (where / "none-s1" / "notes.txt").read_text() == "mine"
    (where / "none-s1" / "notes.txt").unlink()

    def die(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            compare(where, blocks=["se"], overwrite=True)
    compare(where, blocks=["se"], overwrite=True)
    names = {p.name for p in where.iterdir()}
    assert names == {"compare.json", "results.json", "report.html", "se-s1", "notes.txt"}



def test_a_run_has_an_id_and_repeats_to_the_same_bytes(two_runs, tmp_path):
    train_digits(tmp_path / "again")
    first, second = (files.read_json(p / "run.json") for p in (two_runs / "s1", tmp_path / "again"))
    assert first["id"] != second["id"]
    assert first["fingerprint"] == second["fingerprint"]
    assert first["data"] == second["data"]
    weights = "model.safetensors"
    assert (two_runs / "s1" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()
    third = files.read_json(two_runs / "s2" / "run.json")
    assert third["fingerprint"] != first["fingerprint"]


def test_another_runs_checkpoint_is_not_gone_on_from(two_runs, tmp_path, capsys):
    """It is further than the run itself, and would win."""
    longer = train_digits(tmp_path / "longer", epochs=3)
    run = shutil.copytree(two_runs / "s1", tmp_path / "run")
    for file in (longer.output / "checkpoints").glob("*.safetensors"):
        shutil.copy(file, run / "checkpoints")
    kept = contents(run / "checkpoints")
    ab.train(resume=run, epochs=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "is of another run and is left alone" in told
    assert "going on from" in told
    assert "epoch0001" in told.partition("going on from")[2]
    train_digits(tmp_path / "two", epochs=2)
    assert {n for n in kept if n != "manifest.json"} <= set(contents(run / "checkpoints"))
    saved, _ = checkpoint.load(run, files.read_json(run / "run.json")["id"])
    assert saved.values["epoch"] == 2


def test_another_runs_whole_checkpoint_folder_is_not_gone_on_from(two_runs, run):
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(two_runs / "s2" / "checkpoints", run / "checkpoints")
    ab.train(resume=run)
    assert equal_weights(run, two_runs / "s1")


@pytest.mark.parametrize("anew", [False, True])
def test_a_run_that_is_removed_as_it_trains_stops(anew, tmp_path, monkeypatch, capsys):
    """Nothing is written to a directory that another training has made there."""
    run, real, made = tmp_path / "run", trainer.Trainer.train_step, {}

    def train_step(self, *given):
        agreed = real(self, *given)
        if not made:
            shutil.rmtree(run)
            made["now"] = {}
            if anew:
                run.mkdir()
                (run / LOCK).touch()
                (run / "config.yaml").write_text("of another training")
                made["now"] = contents(run)
        return agreed

    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)
    assert main(digit_words("train", run)) == 1
    told = capsys.readouterr().err
    assert "was removed or replaced while this training ran" in " ".join(told.split())
    assert run.exists() == anew
    if anew:
        assert contents(run) == made["now"]


def test_a_run_that_is_removed_before_its_end_is_written_stops(tmp_path, monkeypatch):
    real = trainer.Trainer.measure

    def measure(self, *given):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return real(self, *given)

    monkeypatch.setattr(trainer.Trainer, "measure", measure)
    with pytest.raises(TrainingStopped, match="removed or replaced"):
        train_digits(tmp_path / "run")




def of_another_run(path):
    shutil.copy(path.parent.parent / "other.safetensors", path)


def of_another_program(path):
    save_file(load_file(path), path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, of_another_run, of_another_program, cut, empty])
def test_weights_that_are_not_the_runs_are_told_and_made_again(damage, two_runs, run, capsys):
    shutil.copy(two_runs / "s2" / "model.safetensors", run.parent / "other.safetensors")
    damage(run / "model.safetensors")
    with pytest.raises(ValueError, match=r"damaged|of another run"):
        ab.evaluate(run)
    result = ab.train(resume=run)
    assert "is damaged" in capsys.readouterr().err
    assert equal_weights(run, two_runs / "s1")
    assert ab.evaluate(run, device="cpu") == result.test
    before = contents(run)
    ab.train(resume=run)
    assert contents(run) == before


@pytest.mark.parametrize("damage", [flip, of_another_run])
def test_damaged_weights_are_no_start(damage, two_runs, run, tmp_path):
    shutil.copy(two_runs / "s2" / "model.safetensors", run.parent / "other.safetensors")
    damage(run / "model.safetensors")
    for weights in (run, run / "model.safetensors"):
        with pytest.raises(ValueError, match=r"is damaged|is of another run"):
            train_digits(tmp_path / "x", weights=str(weights))
    assert not (tmp_path / "x").exists()


def test_damaged_weights_without_a_checkpoint_are_not_trained_over(run):
    flip(run / "model.safetensors")
    shutil.rmtree(run / "checkpoints")
    kept = (run / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="no good checkpoint any more"):
        ab.train(resume=run)
    assert (run / "model.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b""),
        ("run.json", b"{}"),
        ("run.json", b"[" * 100_000),
        ("run.json", b"null"),
        ("config.yaml", b"[" * 100_000),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b""),
    ],
)
def test_damaged_files_of_a_run_are_one_line(name, content, run, capsys):
    (run / name).write_bytes(content)
    for given in (["eval", str(run)], ["train", "--resume", str(run)]):
        assert main(given) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert str(run) in told
        assert len(told) < 1000
    (listed,) = list_runs(run)
    assert listed.state.startswith("damaged")


@pytest.mark.parametrize(
    "content", [b"", b"epoch\n1\nx\n", b'epoch,a\n"1\n', b"epoch,a\n7,1\n", b"\xff", b"a,b\n1\n"]
)
def test_damaged_metrics_are_told_and_made_again(content, two_runs, run, capsys):
    whole = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").write_bytes(content)
    assert ab.evaluate(run, device="cpu").images == 360  # which needs the weights alone
    assert ab.train(resume=run).history
    assert "metrics.csv is damaged" in capsys.readouterr().err
    assert (run / "metrics.csv").read_bytes() == whole


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_run_json_is_not_waited_for(run):
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    with pytest.raises(ValueError, match="no regular file"):
        ab.evaluate(run)
    assert list_runs(run)[0].state.startswith("damaged")


def test_a_run_without_its_result_is_one_line(run, capsys):
    info = files.read_json(run / "run.json")
    del info["test"]
    files.write_json(run / "run.json", info)
    assert main(["train", "--resume", str(run)]) == 2
    assert "does not hold its result" in capsys.readouterr().err


def test_a_changed_result_is_told(run):
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"top1"', '"top1": 99.9, "top0"'))
    with pytest.raises(ValueError, match="was changed since it was written"):
        ab.evaluate(run)


def test_changed_settings_are_told(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("lr: 0.1", "lr: 0.2"))
    for work in (ab.evaluate, lambda run: ab.train(resume=run, epochs=2)):
        with pytest.raises(ValueError, match=r"other settings than those"):
            work(run)


def test_another_number_of_threads_is_told(run, capsys):
    info = files.read_json(run / "run.json")
    info["numerics"]["threads"] = 64
    files.write_json(run / "run.json", info)
    ab.train(resume=run, epochs=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "will not be bit for bit what it would have been: threads 64 then and" in told



@pytest.fixture
def images(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("images", "others"):
        for split, count in (("train", 8), ("test", 4)):
            for label in range(2):
                folder = tmp_path / name / split / f"class{label}"
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8)
                    Image.fromarray(pixels.numpy()).save(folder / f"{i}.bmp")
    return tmp_path / "images"


def test_data_of_the_same_names_sizes_and_labels_are_told_apart(images, tmp_path):
    run = tmp_path / "run"
    train_digits(run, data=str(images), batch_size=8)
    with pytest.raises(ValueError, match=r"train split has other contents .* test split has other"):
        ab.train(resume=run, epochs=2, data=str(images.parent / "others"))
    ab.train(resume=run, epochs=2)
    file = images / "test" / "class0" / "2.bmp"
    Image.new("RGB", (8, 8)).save(file)
    with pytest.warns(UserWarning, match="the test split has other contents"):
        ab.evaluate(run)
    file.rename(images / "test" / "class0" / "2b.bmp")
    with pytest.raises(ValueError, match="the test split has other file names"):
        ab.train(resume=run, epochs=3)


def test_marks_of_parquet_and_of_images_in_memory(images, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(change=0):
        for split in ("train", "test"):
            files = sorted((images / split).rglob("*.bmp"))
            rows = [bytearray(file.read_bytes()) for file in files]
            rows[0][-1] ^= change
            labels = [int(file.parent.name[-1]) for file in files]
            table = pa.table({"image": [bytes(r) for r in rows], "label": labels})
            pq.write_table(table, tmp_path / "parquet" / f"{split}.parquet")

    (tmp_path / "parquet").mkdir()
    write()
    run = tmp_path / "run"
    train_digits(run, data=str(tmp_path / "parquet"), batch_size=8)
    write(change=1)
    with pytest.raises(ValueError, match="other contents"):
        ab.train(resume=run, epochs=2)
    digits = ab.data.load_data("digits").marks
    assert digits["train"]["pixels"] != digits["test"]["pixels"]



def compare(where, **more):
    options = {n: v for n, v in DIGITS.items() if n not in ("model", "block")}
    return ab.compare("resnet8", seeds=1, output=str(where), **{**options, **more})


def test_runs_of_other_settings_are_not_mixed_into_a_comparison(tmp_path):
    where = tmp_path / "c"
    result = compare(where, blocks=["none", "ab"])
    saved = files.read_json(where / "results.json")
    assert saved["id"] == files.read_json(where / "compare.json")["id"]
    assert [r["id"] for r in saved["runs"]] == [r.id for r in result.runs]
    assert all(r["id"] and r["weights_sha256"] for r in saved["runs"])
    with pytest.raises(ValueError, match="already holds a comparison"):
        compare(where, blocks=["none", "ab"], epochs=3)
    assert {run.config.epochs for run in ab.compare(resume=where).runs} == {1}
    train_digits(where / "none-s1", block="none", epochs=3, overwrite=True)
    with pytest.raises(ValueError, match=r"none-s1 is not of this comparison: .*epochs=3 and not"):
        ab.compare(resume=where)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "", "{", '{"model": 3}', "[" * 100_000])
def test_a_damaged_comparison_is_one_line(content, tmp_path, capsys):
    (tmp_path / "compare.json").write_text(content)
    assert main(["compare", "--resume", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "holds no comparison to go on with" in told


def test_odd_settings_reach_the_report(images, tmp_path):
    """Values that YAML wraps or quotes: a newline, a colon, a long path, many milestones."""
    place = tmp_path / ("a b: c\nd " + "long " * 20)
    images.rename(place)
    milestones = tuple(i / 100 for i in range(1, 60, 3))
    where = tmp_path / "c"
    long = "gap | dense(groups=C) | bn | dense(groups=C) | bn | dense(groups=C) | bn | sigmoid"
    options = {"data": str(place), "batch_size": 8, "milestones": milestones}
    result = compare(where, blocks=["none", long], **options)
    page = result.report.read_text()
    assert ", ".join(map(str, milestones)) in page
    assert "long long" in page
    assert ab.compare(resume=where).report.exists()


def test_one_block_that_diverges_does_not_lose_the_comparison(tmp_path, monkeypatch, capsys):
    real = Classification.loss

    def poisoned(self, *given):
        loss, sums = real(self, *given)
        return (loss * float("nan"), sums) if self.config.block == "se" else (loss, sums)

    monkeypatch.setattr(Classification, "loss", poisoned)
    where = tmp_path / "c"
    result = compare(where, blocks=["none", "se"])
    for found in (result, ab.compare(resume=where)):
        none, se = found.rows
        assert none.top1
        assert not none.diverged
        assert (se.top1, se.top1_mean) == ([], None)
        assert "the loss is not finite" in se.diverged[1]
        assert se.parameters > none.parameters
        assert "the loss is not finite" in found.report.read_text()
    assert json.loads((where / "results.json").read_text())["rows"][1]["diverged"]
    assert main(["compare", "--resume", str(where)]) == 0
    assert "diverged" in capsys.readouterr().out
    assert {r.path.name: r.state for r in list_runs(where)}["se-s1"] == "diverged"
    with pytest.raises(TrainingStopped, match="every training of the comparison diverged"):
        compare(tmp_path / "all", blocks=["se"])


def test_the_lock_is_that_of_the_directory(tmp_path):
    with locked(tmp_path) as lock:
        lock.check()
        (tmp_path / LOCK).unlink()
        with pytest.raises(TrainingStopped, match="removed or replaced"):
            lock.check()
        (tmp_path / LOCK).touch()
        with pytest.raises(TrainingStopped, match="removed or replaced"):
            Run(tmp_path, lock).write("x", b"")
    assert not (tmp_path / "x").exists()


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
