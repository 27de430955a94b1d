"""A comparison's folder: resumed, overwritten as a whole, and kept apart from other runs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.trainings import (
    DIGITS,
    SIZE_32,
    SMALL,
    compare,
    contents,
    train_digits,
    two_image_folders,
)

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.analysis import comparison
from accuracy_booster.cli import main
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import list_runs
from accuracy_booster.training.classification import Classification


@pytest.fixture
def images(tmp_path):
    return two_image_folders(tmp_path)


def test_a_comparison_goes_on_from_another_directory(tmp_path, make_folder, monkeypatch):
    here = tmp_path
    splits = {f"{s}/{name}": n for s, n in (("train", 8), ("test", 4)) for name in "ab"}
    make_folder(splits)
    make_folder(splits | {"train/a": 9}, name="elsewhere/images")
    monkeypatch.chdir(here)
    options = {"blocks": ["none", "ab"], "seeds": 1, "epochs": 1, **SMALL}
    ab.compare("resnet8", data="images", output="out", **options)
    shutil.rmtree(here / "out" / "ab-s0")  # as if it had been killed before it began
    monkeypatch.chdir(here / "elsewhere")
    result = ab.compare(resume="../out")
    assert {run.config.data for run in result.runs} == {str(here / "images")}
    (here / "images").rename(here / "moved")
    shutil.rmtree(here / "out" / "ab-s0")
    with pytest.raises(
        ValueError,
        match=r"out has its data in .*images' and there is no such directory here; .*--data",
    ):
        ab.compare(resume="../out")
    result = ab.compare(resume="../out", data="../moved")
    assert result.runs[1].config.data == str(here / "moved")
    with pytest.raises(ValueError, match="leave out lr"):
        ab.compare(resume="../out", lr=3.0)


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

    real = type(where).replace

    def replace(self, target):
        if target.name == "compare.json":
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(where), "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            compare(where, blocks=["se"], overwrite=True)
    compare(where, blocks=["se"], overwrite=True)
    names = {p.name for p in where.iterdir()}
    assert names == {"compare.json", "results.json", "report.html", "se-s1", "notes.txt"}


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


def test_compare_starts_all_blocks_from_the_weights(weights_file, make_folder, tmp_path, capsys):
    folder = make_folder({f"{s}/{c}": 8 for s in ("train", "test") for c in "abc"}, size=(32, 32))
    options = {**SIZE_32, "data": str(folder), "preset": "cifar_resnet", "lr": 1e-9}
    options["weights"] = str(weights_file[1])
    result = ab.compare(
        "resnet8", blocks=["none", "ab", "se"], seeds=1, output=str(tmp_path / "out"), **options
    )
    assert [run.config.init for run in result.runs] == ["paper", "identity", "identity"]
    assert capsys.readouterr().err.count("init=identity") == 1
    final = load_file(tmp_path / "out" / "ab-s0" / "model.safetensors")
    for name, parameter in weights_file[0].named_parameters():
        torch.testing.assert_close(final[name], parameter, rtol=1e-4, atol=1e-6)
    wrong = {**options, "weights": str(tmp_path / "w.pth")}
    torch.save(ab.create_model("resnet14").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="do not fit"):
        ab.compare("resnet8", blocks=["none", "ab"], seeds=1, output=str(tmp_path / "no"), **wrong)
    assert not (tmp_path / "no").exists()


LONG = "gap | dense(groups=4) | bn | sigmoid"


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A comparison of one seed; tests change a copy."""
    where = tmp_path_factory.mktemp("begun") / "c"
    compare(where, blocks=["none", LONG])
    return where


@pytest.fixture
def folder(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "c")
    return tmp_path / "c"


def weights(folder):
    return {p.parent.name: p.read_bytes() for p in folder.glob("*/model.safetensors")}


def test_more_seeds_and_blocks_are_added_and_what_has_ended_stays(folder, capsys):
    before = weights(folder)
    more = f"se\n{LONG}\nnone"  # the order does not matter
    words = ["compare", "--resume", str(folder), "--seeds", "2", "--block", more, "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["block"] for row in told["rows"]] == ["none", LONG, "se"]
    assert all(len(row["top1"]) == 2 for row in told["rows"])
    assert told["rows"][2]["difference"]["interval"] is not None
    after = weights(folder)
    assert set(after) == {f"{n}-s{s}" for n in ("none", "recipe2", "se") for s in (1, 2)}
    assert {name: after[name] for name in before} == before
    asked = files.read_json(folder / "compare.json")
    assert (asked["blocks"], asked["seeds"]) == (["none", LONG, "se"], 2)
    assert set(asked["runs"]) == set(after)
    whole = ab.compare(resume=folder)
    assert [row.top1 for row in whole.rows] == [row["top1"] for row in told["rows"]]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seeds": 0}, "seeds=0, but the comparison in .* has 1"),
        ({"blocks": ["none", "se"]}, r"leaves out 'gap \| dense"),
        ({"blocks": ["none", LONG, "abb"]}, "unknown block 'abb'"),
        ({"blocks": ["none", LONG, "se", "se"]}, "names a block twice"),
        ({"blocks": "none"}, "must be a list"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 2, "seeds": 2}, "not both at once"),
        ({"lr": 1.0}, "more seeds, blocks or epochs at most; leave out lr"),
    ],
)
def test_what_cannot_be_added_is_told_and_changes_nothing(folder, given, told):
    before = contents(folder)
    with pytest.raises(ValueError, match=told):
        ab.compare(resume=folder, **given)
    assert contents(folder) == before


def test_latencies_are_kept_where_nothing_was_trained(folder, monkeypatch):
    def latencies():
        return {row["block"]: row["ms_per_image"] for row in found()["rows"]}

    def found():
        return files.read_json(folder / "results.json")

    kept = {row["block"]: 1.5 + i for i, row in enumerate(found()["rows"])}
    new = dict.fromkeys([*kept, "se"], 7.0)
    monkeypatch.setattr(comparison, "latency", lambda networks, *_, **__: new)
    rows = [{**row, "ms_per_image": kept[row["block"]]} for row in found()["rows"]]
    files.write_json(folder / "results.json", {**found(), "rows": rows})
    ab.compare(resume=folder)
    assert latencies() == kept
    ab.compare(resume=folder, blocks=["none", LONG, "se"])  # together, as they are compared
    assert latencies() == new
    (folder / "results.json").write_text("{")
    ab.compare(resume=folder)
    assert latencies() == new


def test_an_interruption_while_it_measures_names_the_command(folder, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    (folder / "results.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "latency", interrupted)
        assert main(["compare", "--resume", str(folder)]) == 130
    told = " ".join(capsys.readouterr().err.split())
    assert f"go on with: accuracy-booster compare --resume {folder}" in told
    assert len(ab.compare(resume=folder).rows) == 2


def test_an_addition_that_was_killed_goes_on(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "run_training", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ab.compare(resume=folder, blocks=["none", LONG, "se"])
    assert files.read_json(folder / "compare.json")["runs"] == ["none-s1", "recipe2-s1", "se-s1"]
    assert [row.block for row in ab.compare(resume=folder).rows] == ["none", LONG, "se"]


def test_all_runs_are_made_longer_once_they_have_ended(folder, monkeypatch):
    for run in ("none-s1", "recipe2-s1"):
        (folder / run / "model.safetensors").rename(folder / run / "kept")
        with pytest.raises(ValueError, match=f"{run} has not ended; go on with the comparison"):
            ab.compare(resume=folder, epochs=2)
        (folder / run / "kept").rename(folder / run / "model.safetensors")
    real, trained = comparison.run_training, []

    def killed(*given, **named):
        if trained:
            raise ZeroDivisionError
        trained.append(given)
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "run_training", killed)
        with pytest.raises(ZeroDivisionError):
            ab.compare(resume=folder, epochs=2)
    result = ab.compare(resume=folder)
    assert [len(run.history) for run in result.runs] == [2, 2]
    assert result.lengthened == [1]
    assert "made longer after they had ended with 1 epoch." in result.report.read_text()
    with pytest.raises(ValueError, match=r"were made longer.*begin a new comparison"):
        ab.compare(resume=folder, seeds=2)
    with pytest.raises(ValueError, match=r"epochs=1, but .* trains for 2"):
        ab.compare(resume=folder, epochs=1)
