"""YAML files of settings: hostile ones are one clear error, ordinary ones are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from accuracy_booster.cli import main
from accuracy_booster.training.train_config import TrainConfig


def bomb(last="mean"):
    """Aliases of aliases: 10 to the 9th values, in less than a kilobyte."""
    lines = ["model: resnet8", "a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    return "\n".join([*lines, f"{last}: *i"])


def merged_bomb():
    lines = ["model: resnet8", "a: &a {k: 1, l: 2}"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}")
    return "\n".join(lines)


YAMLS = {
    "aliases": bomb(),
    "merges": merged_bomb(),
    "brackets": "model: resnet8\nmean: " + "[" * 90_000,
    "brackets, closed": "model: resnet8\nmean: " + "[" * 40_000 + "]" * 40_000,
    "braces": "model: resnet8\nmean: " + "{a: " * 20_000,
    "dashes": "model: resnet8\nmean:\n  " + "- " * 40_000,
    "infinite": "model: resnet8\nepochs: 1e400",
    "infinite float": "model: resnet8\nlr: 1.0e+400",
    "not a number": "model: resnet8\nmean: [.nan]",
    "5000 digits": f"model: resnet8\nepochs: {'9' * 5000}",
    "400 digits": f"model: resnet8\nlr: {'9' * 400}",
    "400 digits in a list": f"model: resnet8\nstd: [{'9' * 400}]",
    "sexagesimal": "model: resnet8\nlr: 1" + ":59" * 300 + ".5",
    "long": f"model: resnet8\nblock: {'x' * 10**7}",
    "long name": f"model: {'r' * 90_000}",
    "long path": f"model: resnet8\noutput: {'r' * 90_000}",
    "long key": f"model: resnet8\n? {'k' * 90_000}\n: 3",
    "a date": "model: resnet8\nepochs: 2020-99-99",
    "code": "model: !!python/object/apply:os.system ['touch SPRUNG']",
    "another file": "model: resnet8\nconfig: other.yaml",
    "a key that is a number": "model: resnet8\n3: 4",
    "a side of true": "model: resnet8\nimage_size: true",
    "sides": "model: resnet8\nimage_size: [1, 2, 3]",
    "no mapping": "[1, 2]",
}


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS.keys())
def test_a_hostile_configuration_is_one_clear_line(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        TrainConfig.from_yaml(text)
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()
    Path("c.yaml").write_text(text)
    for words in (["--config", "c.yaml"], ["--config=c.yaml"], ["--config", text[:100_000]]):
        assert main(["train", *words, "--print_config"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("accuracy-booster: error: ")
        assert len(err) < 900
    assert not Path("SPRUNG").exists()


def test_an_ordinary_configuration_is_read_as_before(tmp_path, capsys):
    text = "# a comment\nmodel: resnet8\nmean: &m [0.5]\nstd: *m\nlr: 1\nblock: 'gap | sigmoid'\n"
    config = TrainConfig.from_yaml(text)
    assert (config.mean, config.std, config.lr) == ((0.5,), (0.5,), 1.0)
    (tmp_path / "c.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "c.yaml"), "--print_config"]) == 0
    assert TrainConfig.from_yaml(capsys.readouterr().out).block == "gap | sigmoid"


WRONG = {
    "empty": ("", "is empty; write one setting on a line"),
    "comments": ("# nothing\n", "is empty"),
    "a list": ("- 1\n- 2\n", "holds a list, not settings"),
    "a text": ("hello\n", "holds one value, 'hello', not settings"),
    "twice": ("model: resnet8\nlr: 1\nlr: 2\n", "gives 'lr' twice, on the lines 2 and 3"),
    "not closed": ("model: resnet8\nmean: [1\nlr: 2\n", ", line 3 is no YAML"),
    "unknown": (
        "model: resnet8\nepohcs: 3\n",
        ", line 2: unknown option 'epohcs'; nearest: e",
    ),
    "a type": ("model: resnet8\n\nepochs: many\n", ", line 3: --epochs: expected a whole number"),
    "a rule": ("model: resnet8\nlr: 1\nepochs: 0\n", ", line 3: epochs=0 must be >= 1"),
    "nested": ("model: resnet8\nlr: {a: 1}\n", ", line 2: 'lr': {'a': 1} must be one value"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG.keys())
def test_an_error_names_the_file_and_the_line(text, said, tmp_path, capsys):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    assert main(["train", "--config", str(file), "--print_config"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"accuracy-booster: error: {file}")
    assert said in err


def test_what_the_command_line_gives_counts_more_than_a_file(tmp_path, capsys):
    file = tmp_path / "own.yaml"
    file.write_text("model: resnet8\nepochs: 7\nlr: 3\n")
    words = ["train", "resnet14", "--config", str(file), "--epochs", "2", "--print_config"]
    assert main(words) == 0
    config = TrainConfig.from_yaml(capsys.readouterr().out)
    assert (config.model, config.epochs, config.lr) == ("resnet14", 2, 3.0)
    words[words.index("2")] = "0"
    assert main(words) == 2
    assert "own.yaml" not in capsys.readouterr().err, "the file did not give this value"
