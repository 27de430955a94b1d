"""Outputs of a network are found by the names of the classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.datasets import (
    labels,
    sentence,
)
from torch import nn

import accuracy_booster as ab
from accuracy_booster.data import load_data


class Colours(nn.Module):
    """A network of `count` outputs: dark images are class `dark`, light ones class `light`."""

    def __init__(self, count: int, dark: int, light: int):
        super().__init__()
        self.count, self.dark, self.light = count, dark, light

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), self.count)
        light = x.mean((1, 2, 3)) > 0
        logits[torch.arange(len(x)), torch.where(light, self.light, self.dark)] = 9.0
        return logits


def renamed(root: Path, dark: str, light: str) -> str:
    for old, new in (("dark", dark), ("light", light)):
        (root / old).rename(root / new)
    return str(root)


@pytest.mark.parametrize(
    ("outputs", "dark", "light", "places"),
    [
        (1000, "n02123045", "n01443537", (281, 1)),  # in the other order than their numbers
        (1000, "tabby", "Goldfish", (281, 1)),
        (1000, "tiger_cat", "great_white_shark", (282, 2)),
        (1000, "tabby, tabby cat", "goldfish, Carassius auratus", (281, 1)),
        (1000, "n02123045_tabby", "1 n01443537 goldfish"[2:], (281, 1)),
        (1000, "207", "9", (207, 9)),
        (11821, "n02123045", "n01443537", None),
        (2, "dark", "light", (0, 1)),
    ],
)
def test_classes_are_found_by_their_names(flat, outputs, dark, light, places):
    if places is None:
        from timm.data import ImageNetInfo

        known = ImageNetInfo("imagenet-12k").label_names()
        places = known.index(dark), known.index(light)
    metrics = ab.evaluate(Colours(outputs, *places), renamed(flat, dark, light), device="cpu")
    assert metrics.top1 == 100
    assert metrics.images == 40


def test_names_of_outputs_can_be_given(flat):
    known = [f"class {i}" for i in range(7)]
    known[5], known[3] = "dark", "light"
    assert ab.evaluate(Colours(7, 5, 3), str(flat), classes=known, device="cpu").top1 == 100


@pytest.mark.parametrize(
    ("dark", "light", "outputs", "message"),
    [
        ("dark", "pale", 1000, r"1000 outputs and .* has 2 classes \(dark, pale\).*classes="),
        ("dark", "light", 7, "7 outputs.*do not tell which outputs are theirs"),
        ("tabby", "pale", 1000, "ImageNet's.*not one class of ImageNet each: pale; .*WordNet"),
        ("tabby", "crane", 1000, "not one class of ImageNet each: crane"),  # a bird and a machine
        ("tabby", "tabby cat", 1000, "two names of the same class"),
        ("0", "1000", 1000, "do not tell which"),
        ("dark", "light", 1, "2 classes, more than the head's 1"),
    ],
)
def test_names_that_tell_no_outputs_are_refused(flat, dark, light, outputs, message):
    model = Colours(outputs, 0, 0).train()
    with pytest.raises(ValueError, match=message) as error:
        ab.evaluate(model, renamed(flat, dark, light), device="cpu")
    sentence(error)
    assert model.training, "evaluate left the module in another mode"


def test_a_run_on_wordnet_ids_is_measured_on_words(make_folder):
    root = str(make_folder({"test/tabby": 1, "test/goldfish": 2}))
    run = ("n01440764", "n01443537", "n02123045")
    data = load_data(root, splits=("test",), classes=run)
    assert labels(data, "test") == [1, 1, 2]
    with pytest.raises(ValueError, match="goldfish, tabby, that are not among the 2"):
        load_data(root, splits=("test",), classes=("cat", "dog"))
