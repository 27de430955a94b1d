"""What is saved is loaded; a damaged save is refused and changes nothing."""

# N batch, C channels, H W space

from __future__ import annotations

import copy
import json

import pytest
import torch
from support.boosting import (
    SITES,
    assert_same_state,
    images,
    net,
    snapshot,
    trained,
)
from support.files import edit_json
from support.saves import loaded, network
from torch import nn

import accuracy_booster as ab
from accuracy_booster.surgery import attached


@pytest.mark.parametrize("recipe", ["ab", "cbam", "ge_theta_plus", "gap | dense | sigmoid"])
@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.filterwarnings("error")
def test_what_is_saved_is_loaded(tmp_path, recipe, init):
    base, x = net(), images()
    model = trained(base, recipe, init=init)
    ab.save(model, tmp_path / "gates")
    fresh = ab.load(copy.deepcopy(base), tmp_path / "gates").eval()
    assert torch.equal(fresh(x), model(x))
    assert list(attached(fresh)) == SITES
    for key, value in model.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(fresh.state_dict()[key], value), key
    size = sum(p.stat().st_size for p in (tmp_path / "gates").iterdir())
    whole = sum(t.nbytes for t in model.state_dict().values())
    assert size < whole
    info = json.loads((tmp_path / "gates" / "booster.json").read_text())
    assert info["base"]["class"] == "ResidualNet"
    ab.save(fresh, tmp_path / "again")  # and once more from what was loaded
    twice = ab.load(copy.deepcopy(base), tmp_path / "again").eval()
    assert torch.equal(twice(x), model(x))
    assert torch.equal(ab.unboost(fresh).layers[0].conv1.weight, base.layers[0].conv1.weight)


def test_other_base_weights_are_a_warning(tmp_path):
    ab.save(trained(net()), tmp_path)
    with pytest.warns(UserWarning, match="other weights"):
        ab.load(net(), tmp_path)


@pytest.mark.parametrize(
    "other", [lambda: net(32), lambda: net(classes=6), lambda: nn.Conv2d(3, 4, 3)]
)
def test_another_structure_is_refused(tmp_path, other):
    ab.save(trained(net()), tmp_path)
    model = other()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"ResidualNet of another structure"):
        ab.load(model, tmp_path)
    assert_same_state(snapshot(model), before)


def truncate(folder):
    file = folder / "booster.safetensors"
    file.write_bytes(file.read_bytes()[:-20])


def break_json(folder):
    (folder / "booster.json").write_text("{")


def empty_json(folder):
    (folder / "booster.json").write_text("{}")


def json_list(folder):
    (folder / "booster.json").write_text("[1]")


def binary_json(folder):
    (folder / "booster.json").write_bytes(b"\xff\xfe\x00")


def lose_tensors(folder):
    (folder / "booster.safetensors").unlink()


def edit(change):
    def damage(folder):
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "booster.safetensors")
        change(tensors)
        save_file(tensors, folder / "booster.safetensors")

    damage.__name__ = change.__name__
    return damage


def drop_one(tensors):
    tensors.pop(next(key for key in tensors if key.endswith("dense.weight")))


def add_one(tensors):
    tensors["stranger"] = torch.zeros(1)


def reshape_one(tensors):
    tensors[next(key for key in tensors if key.endswith("dense.weight"))] = torch.zeros(3, 3)


def unknown_site(folder):
    info = json.loads((folder / "booster.json").read_text())
    info["sites"][0]["name"] = "layers.9.bn2"
    (folder / "booster.json").write_text(json.dumps(info))


def unknown_part(folder):
    text = (folder / "booster.json").read_text()
    (folder / "booster.json").write_text(text.replace('"part": "dense"', '"part": "dance"'))


@pytest.mark.parametrize(
    "damage",
    [
        *[truncate, break_json, empty_json, json_list, binary_json, lose_tensors],
        *[edit(drop_one), edit(add_one), edit(reshape_one), unknown_site, unknown_part],
    ],
    ids=lambda damage: damage.__name__,
)
def test_damaged_files_are_refused_and_change_nothing(tmp_path, damage):
    base = net()
    ab.save(trained(base), tmp_path)
    damage(tmp_path)
    before = snapshot(base)
    with pytest.raises(ValueError) as caught, torch.random.fork_rng():
        ab.load(base, tmp_path)
    assert str(tmp_path) in str(caught.value) or "layers.9.bn2" in str(caught.value)
    assert_same_state(snapshot(base), before)


@pytest.mark.parametrize("channels", [10**18, 10**9, 15, 0, -1, 2.5, "16", None, True])
def test_channels_that_the_tensors_do_not_have_are_refused(channels, tmp_path):
    """Before any gate of so many channels is made."""
    ab.save(network(1), tmp_path)
    edit_json(tmp_path / "booster.json", lambda info: info["sites"][0].update(channels=channels))
    with pytest.raises(ValueError, match=r"cannot be read: .*channels"):
        loaded(tmp_path)
