"""The words of a command line: spellings, lists of numbers, absurd values."""

from __future__ import annotations

import pytest
import yaml
from support.commands import (
    run,
)

from accuracy_booster.cli import main


@pytest.mark.parametrize("option", ["--mean", "--block", "--epochs", "--lr", "--image_size", "--x"])
@pytest.mark.parametrize(
    "value", ["[" * 100_000, "- " * 50_000, "x" * 10**6, "9" * 5000, "1e999", "x\n" * 1000]
)
def test_absurd_words_of_the_command_line_are_one_line(option, value, capsys):
    for words in ([option, value], [f"{option}={value}"]):
        assert main(["train", "--model", "resnet8", "--print_config", *words]) in (0, 2)
        err = capsys.readouterr().err
        assert err.count("\n") <= 1
        assert len(err) < 1000


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
