"""New parameters join the group of their kind and their layer in an optimizer that is in use."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest
import timm
import torch
from support.boosting import (
    EXAMPLE,
    MARK,
    images,
    named,
    net,
)

import accuracy_booster as ab


def by_group(optimizer, model):
    names = {id(p): n for n, p in named(model)}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


@pytest.mark.parametrize("recipe", ["ab", "se"])
@pytest.mark.parametrize("reverse", [False, True])
def test_new_parameters_join_the_group_of_their_kind(recipe, reverse):
    model = net()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups[::-1] if reverse else groups, lr=0.1, momentum=0.9)
    model(images()).sum().backward()
    optimizer.step()
    ab.boost(model, recipe, example=EXAMPLE, optimizer=optimizer)
    decay, plain = by_group(optimizer, model)[:: -1 if reverse else 1]
    assert {n for n in decay if MARK in n} == {
        n for n, p in named(model) if MARK in n and p.ndim > 1
    }
    assert {n for n in plain if MARK in n} == {
        n for n, p in named(model) if MARK in n and p.ndim <= 1
    }
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(set(members)) == len(members) == len(named(model))
    before = [p.detach().clone() for p in ab.added_parameters(model)]
    model(images()).square().sum().backward()
    optimizer.step()
    assert any(
        not torch.equal(p, q) for p, q in zip(ab.added_parameters(model), before, strict=True)
    )


def test_new_parameters_join_the_group_of_their_layer():
    """Layer-wise learning rates: each gate goes with its own block."""
    model = net()
    parts = [model.stem, model.layers[0], model.layers[1], model.head, model.norm]
    groups = []
    for part in parts:
        groups.append({"params": [p for p in part.parameters() if p.ndim > 1]})
        groups.append({"params": [p for p in part.parameters() if p.ndim <= 1]})
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.1)
    places = {n: i for i, names in enumerate(by_group(optimizer, model)) for n in names}
    ab.boost(model, "ab", example=EXAMPLE, optimizer=optimizer)
    for i, names in enumerate(by_group(optimizer, model)):
        for name in names:
            if MARK in name:
                block = name.split(".bn2.")[0]
                like = "conv2.weight" if name.endswith("dense.weight") else "bn2.weight"
                assert places[f"{block}.{like}"] == i, name


@pytest.mark.parametrize("optimizer", [3, "sgd", torch.optim.SGD([torch.zeros(2)], lr=0.1)])
def test_an_optimizer_of_something_else_is_refused_and_changes_nothing(optimizer):
    model = timm.create_model("resnet10t", num_classes=3)
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match="optimizer"):
        ab.boost(model, "ab", example=torch.zeros(1, 3, 64, 64), optimizer=optimizer)
    assert list(model.state_dict()) == keys
