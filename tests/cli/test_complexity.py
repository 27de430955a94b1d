"""The command `complexity`."""

from __future__ import annotations

import json

import pytest
from support.commands import assert_refused, run

import accuracy_booster as ab


def test_complexity_as_json(capsys):
    words = ("complexity", "--model", "resnet20", "--block", "ab,se", "--json")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["block"] for row in rows] == ["none", "ab", "se"]
    for row in rows:
        cost = ab.complexity(ab.create_model("resnet20", block=row.pop("block")))
        assert row == json.loads(json.dumps(cost.to_dict()))
    assert rows[0]["depth"] == 0
    assert rows[1]["block_weights"] == 3 * (16 + 32 + 64)
    assert rows[2]["base"]["parameters"] == rows[0]["parameters"]


def test_complexity_shows_networks_and_blocks(capsys):
    words = ("complexity", "resnet50v1", "--block", "ab", "--batch-size", "2")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert "resnet50v1, 2 images of 3x224x224, convention mac" in out
    assert "25,557,032" in out
    assert "7.716 G" in out
    assert "Each block of ab" in out


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--block", "none", "--convention", "mac+norm"], {"convention": "mac+norm"}),
        (["--block", "none", "--input_size", "1,20,24"], {"input_size": [1, 20, 24]}),
        (["--block", "none", "--batch_size", "3"], {"batch_size": 3}),
    ],
)
def test_options_of_complexity(words, flags, capsys):
    code, out, err = run(capsys, "complexity", "resnet8", *words, "--json")
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert {name: row[name] for name in flags} == flags


def test_complexity_builds_blocks_of_one_size_for_the_networks_own(capsys):
    code, out, err = run(capsys, "complexity", "resnet8", "--block", "ge_theta", "--json")
    assert code == 0, err
    weights = 16 * 32**2 + 32 * 16**2 + 64 * 8**2
    assert json.loads(out)["rows"][1]["block_weights"] == weights


def test_gates_are_counted_where_they_are_asked_for(capsys):
    words = ("--blocks", "ab", "--where", "conv", "--skip", "layer[12]", "--json")
    code, out, err = run(capsys, "complexity", "resnet8", *words)
    assert code == 0, err
    gates = json.loads(out)["rows"][1]["blocks"]
    assert [gate["channels"] for gate in gates] == [16, 64, 64]  # the stem's, and layer3's


def test_complexity_takes_a_recipes_text(capsys):
    text = "gap | dense(groups=4, init=ones) | bn | sigmoid"
    code, out, err = run(capsys, "complexity", "resnet8", "--block", f"{text},ab_g4", "--json")
    assert code == 0, err
    _, first, second = json.loads(out)["rows"]
    assert first["block"] == text
    assert first["macs"] == second["macs"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["complexity", "torchvision/squeezenet1_1"], ["no residual branch", "--where conv"]),
        (["complexity", "resnet8", "--blocks", ","], ["--blocks names no block"]),
        (["complexity"], ["--model NAME"]),
        (["complexity", "resnet8", "--model", "resnet20"], ["resnet8 and resnet20"]),
        (["complexity", "resnet81"], ["unknown model 'resnet81'", "resnet8"]),
        (["complexity", "resnet8", "--block", "abb"], ["unknown block 'abb'", "ab"]),
        (["complexity", "resnet8", "--block", "ab_g3"], ["groups=3"]),
        (["complexity", "resnet8", "--convention", "mac+nrom"], ["'mac+nrom'", "mac+norm"]),
        (["complexity", "resnet8", "--batch_size", "0"], ["batch_size=0"]),
        (["complexity", "resnet8", "--batch_size", "x"], ["--batch_size", "x"]),
        (["complexity", "resnet8", "--input_size", "3,0,8"], ["input_size"]),
        (["complexity", "torchvision/inception_v3", "--input_size", "3,9,9"], ["cannot take"]),
    ],
    ids=lambda value: " ".join(value) if "/" not in value else None,
)
def test_bad_input_is_one_line_and_exit_code_2(words, parts, capsys):
    assert_refused(capsys, words, parts)
