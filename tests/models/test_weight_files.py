"""Files of weights: every usual kind is read, hostile and foreign ones are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from support.hostile import (
    NOT_UTF8,
)
from support.trainings import (
    logits_of,
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


def test_torch_prints_no_warning_of_its_own(tmp_path, recwarn):
    """It warns of the pickle's protocol, in lines before ours."""
    file = tmp_path / "whole.pth"
    file.write_bytes(pickle.dumps({"weight": torch.zeros(2)}, protocol=4))
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(file)
    assert not recwarn.list
