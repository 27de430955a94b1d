"""The command `bench`."""

import json

import pytest

from accuracy_booster import cli


def test_bench_command(capsys, tmp_path):
    file = tmp_path / "bench.json"
    words = "bench resnet8 --block se --where conv --skip *.bn1 --modes infer --batch-sizes 2"
    words += f" --compile off --rounds 2 --input_size 3,8,8 --device cpu --output {file} --json"
    assert cli.main(words.split()) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(file.read_text()) == printed
    assert [(r["block"], r["path"]) for r in printed["rows"]] == [
        *(("none", "naive"), ("none", "ours"), ("se", "naive"), ("se", "ours"))
    ]
    assert printed["input_size"] == [3, 8, 8]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("resnet8 --modes train --batch_sizes 1", "training takes batches of 2"),
        ("resnet8 --modes inference", "unknown mode 'inference'; nearest: infer"),
        ("resnet8 --paths fast", "unknown path 'fast'"),
        ("resnet8 --blocks nonsense", "unknown block 'nonsense'"),
        ("torchvision/squeezenet1_1 --device cpu", "where='conv' (on the command line --where"),
        ("resnet8 --block se --skip layer", "unknown module 'layer'; nearest: layer"),
        ("resnet8 --against timm/seresnet5", "unknown model 'timm/seresnet5'; nearest: timm/"),
        ("resnet8 --rounds 0", "rounds: 0 must be a whole number >= 1"),
        ("resnet8 --compile maybe", "unknown value of --compile 'maybe'"),
        ("resnet8 --threads 0", "--threads 0 must be >= 1"),
        (
            "resnet8 --output /no/such/folder/x.json",
            "there is no directory /no/such/folder",
        ),
        ("", "name one network"),
    ],
)
def test_bad_words_are_one_line(words, said, capsys):
    assert cli.main(["bench", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
