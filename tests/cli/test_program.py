"""The command line as a user meets it: help, and one clear line for bad input."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.commands import (
    run,
)
from support.hostile import (
    EVIL,
    MARKUP,
    NOT_UTF8,
    harmless,
)

from accuracy_booster.cli import COMMANDS, main


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "resnet8", "--input_size", "3,1000000,1000000"],
        ["complexity", "resnet8", "--input_size", "100000000,8,8"],
        ["bench", "resnet8", "--threads", "100000"],
        ["compare", "--model", "resnet8", "--seeds", "1000000"],
        ["train", "--model", "resnet8", "--workers", "100000"],
        ["train", "--model", "resnet8", "--image_size", "1000000"],
    ],
    ids=lambda words: " ".join(words),
)
def test_absurd_demands_of_the_command_are_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "up to" in err or "<=" in err or "in [1, 10000]" in err
    assert not any(tmp_path.iterdir())


NAMED = [  # commands that take a name at {}
    ["train", "--model", "{}"],
    ["train", "--model", "resnet8", "--block", "{}"],
    ["train", "--model", "resnet8", "--block", "gap | {}"],
    ["train", "--model", "resnet8", "--data", "{}"],
    ["train", "--model", "resnet8", "--precision", "{}"],
    ["train", "--model", "resnet8", "--epochs", "{}"],
    ["train", "--model", "resnet8", "--mean", "{}"],
    ["train", "--model", "resnet8", "--weights", "{}"],
    ["train", "--model", "resnet8", "--preset", "{}"],
    ["train", "--config", "{}"],
    ["train", "--resume", "{}"],
    ["train", "--{}"],
    ["compare", "--blocks", "none,{}"],
    ["compare", "--resume", "{}"],
    ["plan", "{}"],
    ["plan", "timm/{}"],
    ["plan", "resnet8", "--where", "{}"],
    ["plan", "resnet8", "--where", "/({}/"],
    ["complexity", "resnet8", "--convention", "{}"],
    ["bench", "resnet8", "--modes", "{}"],
    ["bench", "resnet8", "--output", "{}/{}"],
    ["models", "{}"],
    ["runs", "{}"],
    ["eval", "{}"],
    ["reproduce", "{}"],
    ["{}"],
]


@pytest.mark.parametrize("words", NAMED, ids=" ".join)
@pytest.mark.parametrize("name", [EVIL, MARKUP, NOT_UTF8], ids=["controls", "markup", "bytes"])
def test_bad_names_are_one_harmless_line(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("{}", name) for word in words]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert harmless(err)
    err.encode()


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
    (["compare", "--block", "ab,ab"], ["twice"]),
    (["train", "--model", "resnet8", "--block", "ab,se"], ["several blocks", "compare"]),
    (["plan", "resnet8", "--blocks", "ab,se"], ["several blocks", "plan takes one"]),
    (["train", "--model", "resnet8", "--block", "ab", "--blocks", "se"], ["give one of them"]),
    (["train", "--model", "resnet8", "--where", "layer9"], ["unknown module 'layer9'", "layer1"]),
    (["train", "--model", "resnet8", "--where", "/(/"], ["no regular expression"]),
    (["train", "--model", "resnet8", "--skip", "layer9"], ["unknown module 'layer9'", "skip="]),
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


def test_no_help_imports_torch():
    """torch takes seconds to import: the help of a command must not wait for it."""
    code = (
        "import sys\n"
        "from contextlib import suppress\n"
        "from accuracy_booster.cli import COMMANDS, main\n"
        "main(['--help'])\n"
        "for name in COMMANDS:\n"
        "    with suppress(SystemExit):\n"
        "        main([*name.split(), '--help'])\n"
        "    slow = {'torch', 'torchvision', 'timm', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "    assert not slow, (name, slow)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Example: ") == len(COMMANDS)
