"""The commands `models` and `plan`."""

import json
import re

from support.commands import (
    run,
)

import accuracy_booster as ab
from accuracy_booster import cli


def test_plan(capsys):
    code, out, err = run(capsys, "plan", "timm/resnet18", "--block", "ab", "--json")
    planned = json.loads(out)
    assert code == 0, err
    assert len(planned["gates"]) == 8
    assert planned["parameters"] == 3 * 2 * (64 + 128 + 256 + 512)
    code, out, _ = run(capsys, "plan", "resnet20", "--where", r"/layer1\..*bn1/")
    assert code == 0
    assert out.count("layer1.") == 3
    words = ("--where", "bn1,/layer[12].*bn2/", "--skip", "layer2", "--blocks", "se", "--json")
    code, out, _ = run(capsys, "plan", "resnet8", *words)
    planned = json.loads(out)
    assert [gate["name"] for gate in planned["gates"]] == ["bn1", "layer1.0.bn2"]
    assert planned["skipped"] == ["layer2.0.bn2, by skip='layer2'"]


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
    code, out, _ = run(capsys, "models", "resnet18", "--pretrained")
    assert code == 0
    assert {"resnet18", "timm/resnet18", "torchvision/resnet18"} <= set(out.split())
    assert "wrnD_K" not in out
    code, _, err = run(capsys, "models", "timm/vgg11", "--boostable")
    assert code == 2
    assert "no model matches 'timm/vgg11', with --boostable" in err


def test_plan_shows_the_fast_path(capsys):
    assert cli.main(["plan", "resnet8", "--block", "ab", "--fast-path", "--json"]) == 0
    fused, folded = json.loads(capsys.readouterr().out)["fast_path"]
    assert (fused["kind"], fused["taken"], folded["kind"], folded["taken"]) == (
        *("fused", 3),
        *("folded", 3),
    )
    assert cli.main(["plan", "resnet8", "--block", "cbam", "--fast-path"]) == 0
    out = capsys.readouterr().out
    assert "fused: 0 of 3 places take the fast path" in out
    assert "reads more than each channel's mean" in out


def test_the_fast_path_fits_a_narrow_terminal(capsys, monkeypatch):
    """Each way is told once, under a heading, and no line is broken by the terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["plan", "resnet20", "--fast-path"]) == 0
    out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert all(len(line) <= 80 for line in out.splitlines())
    _, fused, folded = re.split("^With ", out, flags=re.MULTILINE)
    assert fused.startswith("ab.fuse, for training:")
    assert folded.startswith("ab.fold, for inference (torch's convolutions, kernel='off'):")
    for text, how in ((fused, "norm + gate + sum + ReLU"), (folded, "the gate from the mean")):
        assert text.count(how) == 1
        assert re.search(r" 9 +layer1.0.bn2 to layer3.2.bn2 +fast +", text)
