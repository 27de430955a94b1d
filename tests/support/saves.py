"""Boosted networks that differ in their gates alone, and what `ab.load` makes of their saves."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


def network(seed: int) -> nn.Module:
    """A boosted network. Its base is always the same; its gates are a function of the seed."""
    torch.manual_seed(0)
    model = ab.create_model("resnet8", block="ab")
    torch.manual_seed(seed)
    for gate in attached(model).values():
        for parameter in gate.parameters():
            nn.init.normal_(parameter)
    return model


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a fresh base with the gates of a save. A warning is an error."""
    torch.manual_seed(0)
    model = ab.create_model("resnet8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.load(model, path)
    return model.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are bit for bit equal."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
