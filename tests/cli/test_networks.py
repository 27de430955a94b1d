"""The commands `models` and `plan`."""

import json

from support.commands import (
    run,
)

import accuracy_booster as ab


def test_plan(capsys):
    code, out, err = run(capsys, "plan", "timm/resnet18", "--block", "ab", "--json")
    planned = json.loads(out)
    assert code == 0, err
    assert len(planned["gates"]) == 8
    assert planned["parameters"] == 3 * 2 * (64 + 128 + 256 + 512)
    code, out, _ = run(capsys, "plan", "resnet20", "--where", r"/layer1\..*bn1/")
    assert code == 0
    assert out.count("layer1.") == 3


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
