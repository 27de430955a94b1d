"""Files of weights: every usual kind is read, hostile and foreign ones are refused."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from support.hostile import (
    NOT_UTF8,
)
from support.trainings import (
    logits_of,
    randomise,
)

import accuracy_booster as ab
from accuracy_booster.cli import main
from accuracy_booster.models.weight_files import read_weights
from accuracy_booster.models.weights import load_weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_in_a_file_whose_name_is_not_utf8(suffix, tmp_path):
    tensors, path = {"weight": torch.arange(3.0)}, tmp_path / f"w{NOT_UTF8}{suffix}"
    if suffix == ".pth":
        with path.open("wb") as file:
            torch.save(tensors, file)
    else:
        path.write_bytes(safetensors.torch.save(tensors))
    assert torch.equal(read_weights(path)["weight"], tensors["weight"])


class Spring:
    """Unpickling it writes a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_run_no_code(wrapped, tmp_path, capsys):
    place, file = tmp_path / "SPRUNG", tmp_path / "w.pth"
    spring = Spring(place)
    torch.save({"state_dict": {"weight": torch.ones(1), "x": spring}} if wrapped else spring, file)
    with pytest.raises(ValueError, match="could run code"):
        read_weights(file)
    assert main(["train", "--model", "resnet8", "--weights", str(file)]) == 2
    assert "could run code" in capsys.readouterr().err
    assert not place.exists()


def test_weights_that_hold_themselves_are_refused(tmp_path):
    found = {}
    found["model"] = found
    torch.save(found, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no tensors by name"):
        read_weights(tmp_path / "w.pth")


@pytest.fixture
def weights_file(tmp_path):
    """A ResNet-8 of 3 classes with weights of its own, and a file of them."""
    model = randomise(ab.create_model("resnet8", num_classes=3))
    torch.save(model.state_dict(), tmp_path / "own.pth")
    return model, tmp_path / "own.pth"


def other_prefixes(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


FILES = {
    "plain": dict,
    "nested": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 1}},
    "nested twice": lambda state: {"model": {"state_dict": state}},
    "options of argparse": lambda s: {"args": argparse.Namespace(lr=1), "state_dict": s},
    "a number of NumPy": lambda s: {"best": np.float64(91.7), "acc": np.float32(1), "model": s},
    "ddp": other_prefixes("module."),
    "compiled ddp": other_prefixes("module._orig_mod."),
    "compiled parts": lambda s: {n.replace("layer1.0.", "layer1.0._orig_mod."): s[n] for n in s},
    "lightning": lambda s: {"state_dict": other_prefixes("model.")(s) | {"loss.w": torch.ones(2)}},
    "backbone": lambda s: other_prefixes("backbone.")(s) | {"neck.weight": torch.ones(2)},
    "head's other name": lambda s: {n.replace("fc.", "linear."): t for n, t in s.items()},
    "no counters": lambda s: {n: t for n, t in s.items() if "num_batches" not in n},
    "half": lambda s: {n: t.half() if t.is_floating_point() else t for n, t in s.items()},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_weights_gives_its_network(kind, weights_file, tmp_path):
    state = FILES[kind](weights_file[0].state_dict())
    torch.save(state, tmp_path / "file.pth")
    model = ab.create_model("resnet8", num_classes=3)
    loaded = load_weights(model, read_weights(tmp_path / "file.pth"), "file.pth")
    expected = logits_of(weights_file[0])
    if kind == "half":
        torch.testing.assert_close(logits_of(model), expected, rtol=0.02, atol=0.02)
    else:
        assert torch.equal(logits_of(model), expected)
    assert loaded.new == []
    assert loaded.unused == (kind in ("lightning", "backbone"))


def test_a_safetensors_file_and_the_old_format(weights_file, tmp_path):
    state = weights_file[0].state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pth"):
        model = ab.create_model("resnet8", num_classes=3)
        load_weights(model, read_weights(tmp_path / name), name)
        assert torch.equal(logits_of(model), logits_of(weights_file[0]))


class Code:
    def __reduce__(self):
        return os.mkdir, ("the code has run",)


def broken(tmp_path, weights_file):
    """Files that give no weights, and what is told."""
    state = weights_file[0].state_dict()
    whole = tmp_path / "whole.pth"
    torch.save(weights_file[0], whole)
    torch.save({"state_dict": state, "x": Code()}, tmp_path / "code.pth")
    torch.save(state, tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("no weights here")
    (tmp_path / "bad.safetensors").write_bytes(b"\x10" * 40)
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "folder").mkdir()
    return {
        "none.pth": "there is no such file",
        "whole.pth": r"holds more than tensors \(.*ResNetCifar\).*save model.state_dict",
        "code.pth": r"holds more than tensors \(.*mkdir",
        "cut.pth": "cannot be read: ",
        "empty.pth": "cannot be read: it is empty or cut off",
        "text.pth": "cannot be read: it is no file of torch.save",
        "bad.safetensors": "cannot be read: ",
        "list.pth": "holds no tensors by name, but list",
        "folder": "the directory holds no model.safetensors",
    }


def test_files_that_are_no_weights_are_told_and_run_no_code(weights_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, told in broken(tmp_path, weights_file).items():
        with pytest.raises(ValueError, match=told) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "the code has run").exists()


def test_weights_of_another_network_are_told(weights_file, tmp_path, make_folder):
    state = weights_file[0].state_dict()
    boosted = ab.create_model("resnet8", block="ab", num_classes=3)
    cases = [
        ("resnet8", {n: t for n, t in state.items() if n != "conv1.weight"}, "1 are missing"),
        ("resnet8", state | {"more.weight": torch.ones(1)}, "1 fit nothing .*'more.weight'"),
        ("resnet8", state | {"conv1.weight": torch.ones(4, 3, 3, 3)}, r"other shapes.*\[4, 3, 3"),
        ("resnet8", boosted.state_dict(), "holds gates, .*give the block"),
        ("resnet14", state, "are missing"),
    ]
    for name, given, told in cases:
        model = ab.create_model(name, num_classes=3)
        with pytest.raises(ValueError, match=told):
            load_weights(model, given, "file.pth")
    part = {n: t for n, t in boosted.state_dict().items() if "layer2.0.bn2.rec" not in n}
    with pytest.raises(ValueError, match=r"are missing .*layer2.0.bn2.recalibrate"):
        load_weights(boosted, part, "file.pth")
    folder = make_folder({f"{s}/{c}": 2 for s in ("train", "test") for c in "abc"})
    output = tmp_path / "run"
    with pytest.raises(ValueError, match=r"do not fit|other shapes|holds gates"):
        ab.train("resnet14", data=str(folder), weights=str(weights_file[1]), output=str(output))
    # no run is left
    assert not (output / "config.yaml").exists()
