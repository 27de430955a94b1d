"""The commands `train`, `eval`, `compare` and `runs`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from support.commands import (
    run,
)
from support.hostile import (
    EVIL,
    MARKUP,
    NOT_UTF8,
    harmless,
)

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.progress import printable


@pytest.mark.parametrize(
    "name",
    [EVIL.replace("/", "_"), MARKUP.replace("/", "|"), NOT_UTF8],
    ids=["controls", "markup", "bytes"],
)
def test_a_run_and_data_with_evil_names(name, make_folder, tmp_path, monkeypatch, capsys):
    """Directories, classes and files of this name: trained, listed, measured, gone on with."""
    monkeypatch.chdir(tmp_path)
    data = make_folder({f"{split}/{c}": 4 for split in ("train", "test") for c in "ab"})
    for folder in [*data.glob("*/*")]:
        folder.rename(f"{folder}{name}")
    data = data.rename(f"data{name}")
    (data / f"train/a{name}/bad{name}.png").write_bytes(b"no image")
    (data / f"test/b{name}/notes{name}.xyz").write_text("left out")
    run = Path("run" if name == NOT_UTF8 else f"run{name}")
    words = ["--model", "resnet8", "--data", str(data), "--epochs", "1", "--batch_size", "2"]
    words += ["--device", "cpu", "--compile", "off"]
    assert main(["train", *words, "--output", str(run), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["output"] == str(run)
    assert harmless(out + err)
    assert "skipped" in err
    assert f"bad{printable(name)}" in err
    for command in (
        ["eval", str(run)],
        ["runs", "."],
        ["train", "--resume", str(run)],
        ["train", *words, "--output", str(run)],  # refused: there is one
        ["train", *words, "--print_config"],
    ):
        code = main(command)
        out, err = capsys.readouterr()
        assert code == (2 if "--output" in command else 0), err
        assert harmless(out + err)
        (out + err).encode()
        if "--resume" in command:
            assert printable(run) in out.splitlines()
        if command[0] == "runs":  # a cell may be broken into lines
            assert printable(run)[:6] in out
    assert main(["runs", ".", "--json"]) == 0
    assert [row["path"] for row in json.loads(capsys.readouterr().out)["runs"]] == [str(run)]


def test_a_run_in_a_directory_that_is_not_utf8_is_refused_before_it_starts(tmp_path, capsys):
    run = tmp_path / f"run{NOT_UTF8}"
    assert main(["train", "--model", "resnet8", "--epochs", "1", "--output", str(run)]) == 2
    err = capsys.readouterr().err
    assert "must be a path in UTF-8" in err
    assert r"\udcff\udcfe" in err
    assert not run.exists()


QUICK = ["--model", "resnet8", "--epochs", "1", "--device", "cpu"]


@pytest.mark.parametrize("block", ["none", *ab.list_recipes(), "ab_g2", "ab_g4"])
def test_every_recipe_trains_an_epoch_and_is_evaluated(block, tmp_path, capsys):
    code, out, err = run(
        capsys, "train", *QUICK, "--block", block, "--output", tmp_path / "r", "--json"
    )
    assert code == 0, err
    trained = json.loads(out)
    code, out, err = run(capsys, "eval", tmp_path / "r", "--device", "cpu", "--json")
    assert code == 0, err
    measured = json.loads(out)
    assert measured.pop("loss") == pytest.approx(trained["test"].pop("loss"), rel=1e-5)
    assert {name: measured[name] for name in trained["test"]} == trained["test"]
    assert trained["test"]["images"] == 360


def test_a_recipe_as_text(tmp_path, capsys):
    text = "gap | dense(groups=4, init=ones) | bn(momentum=0.05) | sigmoid"
    code, out, err = run(capsys, "train", *QUICK, "--block", text, "--output", tmp_path / "r")
    assert code == 0, err
    assert out.strip().splitlines()[-1] == str(tmp_path / "r")
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["block"] == text
    code, out, _ = run(capsys, "eval", tmp_path / "r")
    assert code == 0
    assert "top-1 error" in out
    assert "top-5 error" in out


def test_print_config_is_resolved_and_feeds_config(tmp_path, capsys):
    code, out, _ = run(
        capsys, "train", "--model", "wrn16_4", "--data", "cifar10", "--print_config", "--lr", "0.3"
    )
    values = yaml.safe_load(out)
    assert code == 0
    assert (values["weight_decay"], values["lr"], values["nesterov"]) == (5e-4, 0.3, True)
    file = tmp_path / "c.yaml"
    file.write_text(out)
    _, again, _ = run(capsys, "train", "--config", file, "--print_config", "--epochs", "9")
    assert yaml.safe_load(again) == {**values, "epochs": 9}


def test_fine_tune_the_gates_of_a_pretrained_network(tmp_path, capsys, monkeypatch):
    """The base keeps its weights and statistics; head and gates learn; the run is evaluated."""
    import timm
    from safetensors.torch import load_file

    made = timm.create_model("resnet10t", num_classes=1000, in_chans=1, zero_init_last=False)
    torch.save(made.state_dict(), tmp_path / "w.pth")
    build = timm.create_model

    def local(name, pretrained=False, **given):
        if pretrained:
            given["pretrained_cfg_overlay"] = {"file": str(tmp_path / "w.pth")}
        return build(name, pretrained=pretrained, **given)

    monkeypatch.setattr(timm, "create_model", local)
    code, _, err = run(
        *(capsys, "train", "--model", "timm/resnet10t", "--pretrained", "--block", "ab"),
        *("--init", "identity", "--freeze", "base", "--gate-lr", "0.3", "--epochs", "1"),
        *("--image_size", "32", "--device", "cpu", "--output", tmp_path / "r"),
    )
    assert code == 0, err
    trained = load_file(tmp_path / "r" / "model.safetensors")
    for name, tensor in made.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(trained[name], tensor), name
    gammas = [v for k, v in trained.items() if k.endswith("recalibrate.0.bn.weight")]
    assert len(gammas) == 4
    tracked = [v for k, v in trained.items() if k.endswith("0.bn.num_batches_tracked")]
    assert all(count > 0 for count in tracked), "the gates' own norms were frozen with the base's"
    assert all(gamma.abs().max() > 0 for gamma in gammas), "a gate has not learned"
    code, _, err = run(capsys, "eval", tmp_path / "r", "--device", "cpu")
    assert code == 0, err


def test_compare_through_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--model", "resnet8", "--blocks", "none,eca", "--seeds", "1"]
    for expected in ("compare-resnet8-digits", "compare-resnet8-digits-2"):
        assert main([*words, "--epochs", "1", "--device", "cpu"]) == 0
        out, _ = capsys.readouterr()
        last = out.strip().splitlines()[-1]
        assert last == f"runs/{expected}/report.html"
        assert (tmp_path / last).exists()
        assert "eca" in out
        assert "parameters" in out
        assert "There is one seed of each, so no interval" in out
        assert "\N{PLUS-MINUS SIGN}" not in out
    assert main([*words, "--output", "runs/compare-resnet8-digits"]) == 2
    err = capsys.readouterr().err
    assert "already holds a comparison" in err
    assert "--resume" in err


def test_a_second_train_makes_a_directory_and_an_ended_run_says_so(tmp_path, capsys, monkeypatch):
    """As a second `compare` does."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "resnet8", "--block", "none", "--epochs", "1", "--device", "cpu"]
    for expected in ("runs/resnet8-none-digits-s0", "runs/resnet8-none-digits-s0-2"):
        code, out, _ = run(capsys, *words)
        assert (code, out.splitlines()[-1]) == (0, expected)
    code, _, err = run(capsys, *words, "--output", expected)
    assert code == 2
    assert "already holds a run" in err
    code, out, err = run(capsys, "train", "--resume", expected)
    assert (code, out.splitlines()[-1]) == (0, expected)
    assert "has ended, and there is nothing to do; --epochs N trains it" in err
    code, _, err = run(capsys, "prune", expected, "--device", "cpu")
    assert code == 2
    assert "no gates to rank channels by; give --by magnitude" in err


def test_a_folder_without_runs_is_said_to_have_none(tmp_path, capsys):
    assert run(capsys, "runs", tmp_path) == (
        0,
        f"There is no run in {tmp_path}. accuracy-booster train makes one.\n",
        "",
    )
