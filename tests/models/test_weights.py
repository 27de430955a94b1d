"""The tensors of a file fit a network, whatever wrapped the saved one, or are refused."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from support.trainings import (
    logits_of,
)

import accuracy_booster as ab
from accuracy_booster.models.weight_files import read_weights
from accuracy_booster.models.weights import load_weights


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
