"""The command line as a user meets it: results, help, and one clear line for bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

import accuracy_booster as ab
from accuracy_booster.cli import COMMANDS, main

QUICK = ["--model", "resnet8", "--epochs", "1", "--device", "cpu"]


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


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
    assert measured == trained["test"]
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


def test_spellings(capsys):
    words = ("train", "--model", "resnet8", "--batch-size=32", "--nesterov", "--no-channels-last")
    code, out, err = run(capsys, *words, "--print_config")
    assert code == 0, err
    values = yaml.safe_load(out)
    assert (values["batch_size"], values["nesterov"], values["channels_last"]) == (32, True, False)


def test_lists_of_numbers(capsys):
    words = ("train", "--model", "resnet8", "--milestones", "0.2,0.9", "--mean", "0.4")
    _, out, err = run(capsys, *words, "--image_size", "9", "--print_config")
    values = yaml.safe_load(out)
    assert (values["milestones"], values["mean"]) == ([0.2, 0.9], [0.4]), err
    assert values["image_size"] == [9, 9]


def test_plan(capsys):
    code, out, err = run(capsys, "plan", "timm/resnet18", "--block", "ab", "--json")
    planned = json.loads(out)
    assert code == 0, err
    assert len(planned["gates"]) == 8
    assert planned["parameters"] == 3 * 2 * (64 + 128 + 256 + 512)
    code, out, _ = run(capsys, "plan", "resnet20", "--where", r"/layer1\..*bn1/")
    assert code == 0
    assert out.count("layer1.") == 3


def test_fine_tune_the_gates_of_a_pretrained_network(tmp_path, capsys, monkeypatch):
    """The base keeps its weights and statistics; head and gates learn; the run is evaluated."""
    import timm
    import torch
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


def test_models(capsys):
    code, out, _ = run(capsys, "models", "--json")
    listed = json.loads(out)
    assert code == 0
    assert [m["name"] for m in listed["models"]] == ab.list_models()
    assert list(listed["blocks"]) == ab.list_recipes()
    code, out, _ = run(capsys, "models", "wrn*")
    assert code == 0
    assert "wrn22_10" in out
    assert "resnet20" not in out
    code, out, _ = run(capsys, "models", "timm/resnet1*")
    assert code == 0
    assert "timm/resnet18" in out.split()


def test_help_has_an_example_and_every_option(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name, command in COMMANDS.items():
        assert name in out
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0
        assert f"Example: {command.example}" in shown
        assert "--json" in shown


@pytest.fixture
def data(tmp_path):
    """Folders that are wrong in one way each."""
    pixels = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for place in ("no_test/train/a", "ten/test/a"):
        (tmp_path / place).mkdir(parents=True)
        pixels.save(tmp_path / place / "0.png")
    (tmp_path / "no_images/train/a").mkdir(parents=True)
    (tmp_path / "no_images/test/a").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    return tmp_path


BAD = [
    (["trian"], ["unknown command 'trian'", "train"]),
    (["train"], ["model"]),
    (["train", "--model", "resnet57"], ["unknown model 'resnet57'", "resnet56"]),
    (["train", "--model", "resnet8", "--block", "abb"], ["unknown block 'abb'", "ab"]),
    (["train", "--model", "resnet8", "--block", "gap | dens"], ["position 6", "dense"]),
    (["train", "--model", "resnet8", "--block", "ab_g3"], ["groups=3", "channels=16", "2 or 4"]),
    (["train", "--model", "resnet8", "--data", "digit"], ["unknown data set", "digits"]),
    (["train", "--model", "resnet8", "--data", "{data}/empty"], ["no images"]),
    (["train", "--model", "resnet8", "--data", "{data}/no_images"], ["no images"]),
    (["train", "--model", "resnet8", "--data", "{data}/no_test"], ["no test split", "train"]),
    (["train", "--model", "resnet8", "--num_classes", "3"], ["10 classes", "num_classes=3"]),
    (["train", "--model", "resnet8", "--epochs", "many"], ["--epochs: ", "int", "many"]),
    (["train", "--model", "resnet8", "--epochs", "0"], ["epochs=0", ">= 1"]),
    (["train", "--model", "resnet8", "--epohcs", "3"], ["epohcs", "nearest: --epochs"]),
    (["train", "--model", "resnet8", "--mean", "x"], ["--mean: expected", "got x"]),
    (["train", "--model", "resnet8", "--data", ""], ["data=''"]),
    (["train", "--model", "resnet8", "--output", "{data}/file/x"], ["is a file"]),
    (["compare", "--block", "ab"], ["'--block'", "nearest: --blocks"]),
    (["plan", "timm/resnet81"], ["unknown model 'resnet81'", "resnet18"]),
    (["plan", "resnet20", "--where", "layer9"], ["unknown module 'layer9'", "layer1"]),
    (["plan", "timm/resnet18", "--input_size", "3,-4,64"], ["input_size"]),
    (["plan", "timm/vit_tiny_patch16_224"], ["no residual branch"]),
    (["plan", "resnet20", "--block", "design_e", "--init", "identity"], ["no parameters"]),
    (["train", "--model", "resnet8", "--freeze", "base", "--block", "none"], ["nothing to train"]),
    (["train", "--model", "resnet8", "--config", "{data}/none.yaml"], ["none.yaml"]),
    (["train", "--model", "wrn21_2"], ["6n + 4"]),
    (["eval", "{data}/empty"], ["holds no run"]),
    (["compare", "--blocks", "none,abb"], ["unknown block 'abb'"]),
    (["compare", "--blocks", "ab,ab"], ["twice"]),
    (["compare", "--seeds", "0"], ["seeds=0"]),
    (["models", "vgg*"], ["vgg*"]),
]


@pytest.mark.parametrize(("words", "parts"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(words, parts, data, capsys, monkeypatch):
    monkeypatch.chdir(data)
    code, out, err = run(capsys, *(word.format(data=data) for word in words))
    assert code == 2
    assert out == ""
    line = err.strip()
    assert "\n" not in line, "more than one line"
    assert "Traceback" not in line
    for part in parts:
        assert part in line
    assert not (data / "runs").exists(), "bad input left a run behind"
    if words[0] != "trian":
        with pytest.raises((ValueError, SystemExit)):
            main([*(word.format(data=data) for word in words), "--debug"])


def test_the_command_itself():
    """Installed, in a process of its own: `python -m` and the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "accuracy_booster", "train", "--model", "resnet57"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("accuracy-booster: error: unknown model")
    version = subprocess.run(
        [sys.executable, "-m", "accuracy_booster", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout.strip() == f"accuracy-booster {ab.__version__}"
