"""Files of weights run no code."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.hostile import (
    NOT_UTF8,
)

from accuracy_booster.cli import main
from accuracy_booster.models.weight_files import read_weights


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
