"""The command line as a user meets it: help, and one clear line for bad input."""

from __future__ import annotations

import re
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

import accuracy_booster as ab
from accuracy_booster.cli import COMMANDS, main
from accuracy_booster.cli.help_text import shown_default
from accuracy_booster.cli.program import parser_of
from accuracy_booster.training.presets import PRESETS, resolve


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
        assert main([*name.split(), "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"Example: {command.example}" in shown
        assert ("--json" in shown) != command.takes_all_words


@pytest.mark.parametrize("words", [["--version"], ["version"]])
def test_the_version(words, capsys):
    assert run(capsys, *words) == (0, f"accuracy-booster {ab.__version__}\n", "")


@pytest.mark.parametrize("words", [[], ["plan"], ["detect"], ["detect", "train"]])
def test_help_as_a_word(words, capsys):
    asked = run(capsys, *words, "--help")
    assert run(capsys, "help", *words) == asked
    assert asked[0] == 0
    assert "usage: " in asked[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_a_users_words(name, capsys):
    """No types of Python, no options that jsonargparse adds, and every option says something."""
    shown = run(capsys, name.split()[0], *name.split()[1:], "--help")[1]
    for word in ("type:", "Optional[", "Union[", "tuple[", "null", "None", "required", "+ "):
        assert word not in shown, word
    assert not re.search(r"--\w+\+", shown)
    for action in parser_of(name, COMMANDS[name])._actions:
        assert action.help, action.dest


def shown_defaults(name):
    """{option: the words about its default} of a command."""
    return {a.dest: shown_default(a) for a in parser_of(name, COMMANDS[name])._actions}


@pytest.mark.parametrize("name", ["train", "compare"])
@pytest.mark.parametrize("setting", ["epochs", "batch_size", "schedule", "nesterov", "workers"])
def test_help_shows_the_defaults_of_each_preset(name, setting):
    """They are those that a training with this preset gets."""
    told = shown_defaults(name)[setting].removeprefix("default by preset: ").split("; ")
    shares = [share.split(" in ") for share in told[:-1]]
    of_preset = {preset: value for value, presets in shares for preset in presets.split(", ")}
    for preset in PRESETS:
        used = str(getattr(resolve("resnet20", preset=preset), setting))
        value = of_preset.get(preset, told[-1].removeprefix("otherwise "))
        assert value == {"True": "on", "False": "off"}.get(used, used)


@pytest.mark.parametrize("name", ["eval", "detect eval"])
def test_measuring_shows_that_the_runs_settings_are_used(name):
    shown = shown_defaults(name)
    for setting in ("eval_batch_size", "precision", "workers", "bad_images"):
        assert shown[setting] == "default: the run's"


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
    (["train", "--model", "resnet8", "--epochs", "many"], ["--epochs: ", "a whole number", "many"]),
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
    (["plan", "mine.py:make"], ["network of your own, which only the commands train, compare"]),
    (["complexity", "own.nets:make"], ["network of your own, which only the commands train"]),
    (["train", "--model", "a/mine.py"], ["is a file; write a/mine.py:FUNCTION"]),
    (["train", "--model", "resnet8", "--weights", ""], ["weights=''", "leave it out"]),
    (["plan", "timm/resnet81"], ["unknown model 'timm/resnet81'", "timm/resnet18"]),
    (["plan", "resnet20", "--where", "layer9"], ["unknown module 'layer9'", "layer1"]),
    (["plan", "timm/resnet18", "--input_size", "3,-4,64"], ["input_size"]),
    (["plan", "timm/vit_tiny_patch16_224"], ["no residual branch"]),
    (["plan", "resnet20", "--block", "design_e", "--init", "identity"], ["no parameters"]),
    (["train", "--model", "resnet8", "--freeze", "base", "--block", "none"], ["nothing to train"]),
    (["train", "--model", "resnet8", "--config", "{data}/none.yaml"], ["none.yaml"]),
    (["train", "--model", "wrn21_2"], ["6n + 4"]),
    (["eval", "{data}/empty"], ["holds no run"]),
    (["compare", "--blocks", "none,abb"], ["unknown block 'abb'"]),
    (
        ["train", "--model", "resnet8", "--milestones", "x"],
        ["numbers separated by commas", "got x"],
    ),
    (["bench", "resnet8", "--batch_sizes", "a,b"], ["whole numbers separated", "got a,b"]),
    (["plan", "resnet8", "--input_size", "3,x,2"], ["C,H,W", "got 3,x,2"]),
    (["train", "--model", "resnet8", "--epochs"], ["--epochs needs a value: a whole number"]),
    (["train", "resnet8", "--model", "resnet14"], ["resnet8 and resnet14"]),
    (["runs", "a", "b"], ["b: no word is expected here"]),
    (["eval"], ["RUN is missing", "eval --help"]),
    (["compare", "--blocks", "ab,ab"], ["twice"]),
    (["compare", "--seeds", "0"], ["seeds=0"]),
    (["models", "vggg*"], ["vggg*"]),
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
        with pytest.raises(ValueError):
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
