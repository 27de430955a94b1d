"""Fingerprints tell whether the base of a save has the weights that it had."""

from __future__ import annotations

import pytest
import torch
from support.files import edit_json
from support.saves import loaded, network

import accuracy_booster as ab
from accuracy_booster.surgery import fingerprints


def test_the_order_of_filters_is_a_change(tmp_path):
    ab.save(network(1), tmp_path)
    torch.manual_seed(0)
    base = ab.create_model("resnet8")
    with torch.no_grad():
        base.conv1.weight.copy_(base.conv1.weight.flip(0))
    with pytest.warns(UserWarning, match="has other weights"):
        ab.load(base, tmp_path)


def test_the_fingerprint_of_an_older_version_is_understood(tmp_path):
    model = network(1)
    ab.save(model, tmp_path)
    former = fingerprints.former_combined(model)
    assert not former.startswith(fingerprints.ORDERED)
    edit_json(tmp_path / "booster.json", lambda info: info["base"].update(fingerprint=former))
    loaded(tmp_path)  # no warning
    edit_json(tmp_path / "booster.json", lambda info: info["base"].update(fingerprint="0"))
    with pytest.raises(UserWarning, match="has other weights"):
        loaded(tmp_path)


def test_only_the_tensors_of_the_base_have_marks():
    model = network(1)
    base = ab.unboost(network(1))
    before = fingerprints.fingerprints(model)
    assert before == fingerprints.fingerprints(base)
    with torch.no_grad():
        for parameter in ab.added_parameters(model):
            parameter.add_(1)
        model.conv1.weight[0, 0, 0, 0] += 1
    after = fingerprints.fingerprints(model)
    assert [name for name in after if after[name] != before[name]] == ["conv1.weight"]
