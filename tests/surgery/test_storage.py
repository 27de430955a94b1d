"""A save is the old or the new one after any interruption; changes of it are told."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import pytest
import torch
from support.files import edit_json, without_hash
from torch import nn

import accuracy_booster as ab
from accuracy_booster.errors import CannotWrite
from accuracy_booster.surgery import attached, storage


class Interrupted(BaseException):
    """What no handler of ours catches, like a kill."""


def network(seed):
    """A boosted network whose gates are a function of the seed."""
    torch.manual_seed(0)
    model = ab.create_model("resnet8", recipe="ab")
    torch.manual_seed(seed)
    for gate in attached(model).values():
        for parameter in gate.parameters():
            nn.init.normal_(parameter)
    return model


def loaded(path):
    """The gates of a save, on a fresh base."""
    torch.manual_seed(0)
    model = ab.create_model("resnet8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.load(model, path)
    return model.state_dict()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def interrupt(monkeypatch, number):
    """Make the number-th system call of a write the last thing that happens."""
    left = [number]

    def step():
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted

    real_fsync, real_replace, real_open = os.fsync, Path.replace, Path.open

    def fsync(descriptor):
        step()
        real_fsync(descriptor)

    def replace(self, target):
        step()
        out = real_replace(self, target)
        step()
        return out

    def opened(self, mode="r", *rest, **more):
        if mode == "wb":
            step()
        return real_open(self, mode, *rest, **more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "open", opened)
    return left


@pytest.mark.parametrize("former", ["today's", "an older version's"])
def test_a_save_over_a_save_is_the_old_one_or_the_new_one(former, tmp_path):
    old, new = network(1), network(2)
    ends = []
    for number in range(99):
        path = tmp_path / str(number)
        ab.save(old, path)
        if former != "today's":
            without_hash(path / "booster.safetensors")
            edit_json(path / "booster.json", lambda info: info.pop("tensors"))
        with pytest.MonkeyPatch.context() as patch:
            left = interrupt(patch, number)
            try:
                ab.save(new, path)
            except Interrupted:
                pass
            else:
                assert left[0] >= 0
        now = loaded(path)
        ends.append("new" if same(now, new.state_dict()) else "old")
        assert ends[-1] == "new" or same(now, old.state_dict())
        if left[0] >= 0:
            break
    assert ends == sorted(ends, reverse=True)
    assert {"old", "new"} == set(ends)
    assert len(ends) > 8
    assert sorted(p.name for p in path.iterdir()) == ["booster.json", "booster.safetensors"]


@pytest.mark.parametrize("name", ["booster.json", "booster.safetensors"])
def test_a_flipped_bit_of_a_save_is_told(name, tmp_path):
    ab.save(network(1), tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    generator = torch.Generator().manual_seed(0)
    changed = 0
    for _ in range(60):
        place = int(torch.randint(len(content), (), generator=generator))
        bit = 1 << int(torch.randint(8, (), generator=generator))
        content[place] ^= bit
        (tmp_path / name).write_bytes(content)
        try:
            before = loaded(tmp_path)
        except ValueError as e:
            assert str(tmp_path) in str(e)  # noqa: PT017
            changed += 1
        else:  # a bit of the space between two tokens
            assert same(before, network(1).state_dict())
        content[place] ^= bit
    assert changed > 50


def test_the_order_of_filters_is_a_change(tmp_path):
    model = network(1)
    ab.save(model, tmp_path)
    torch.manual_seed(0)
    base = ab.create_model("resnet8")
    with torch.no_grad():
        base.conv1.weight.copy_(base.conv1.weight.flip(0))
    with pytest.warns(UserWarning, match="has other weights"):
        ab.load(base, tmp_path)


def test_the_fingerprint_of_an_older_version_is_understood(tmp_path):
    model = network(1)
    ab.save(model, tmp_path)
    state = storage._base_state(model).items()
    marks = {name: storage._former_mark(tensor) for name, tensor in state}
    former = storage._combined(marks).removeprefix(storage.ORDERED)
    edit_json(tmp_path / "booster.json", lambda info: info["base"].update(fingerprint=former))
    loaded(tmp_path)  # no warning
    edit_json(tmp_path / "booster.json", lambda info: info["base"].update(fingerprint="0"))
    with pytest.raises(UserWarning, match="has other weights"):
        loaded(tmp_path)


@pytest.mark.parametrize("channels", [10**18, 10**9, 15, 0, -1, 2.5, "16", None, True])
def test_channels_that_the_tensors_do_not_have_are_refused(channels, tmp_path):
    """Before any gate of so many channels is made."""
    ab.save(network(1), tmp_path)
    edit_json(tmp_path / "booster.json", lambda info: info["sites"][0].update(channels=channels))
    with pytest.raises(ValueError, match=r"cannot be read: .*channels"):
        loaded(tmp_path)


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_the_old_save_and_is_one_line(tmp_path, monkeypatch):
    ab.save(network(1), tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match=r"cannot write .*: No space left"):
        ab.save(network(2), tmp_path)
    with pytest.raises(OSError, match="No space left"):
        ab.save(network(2), tmp_path)
    monkeypatch.undo()
    assert same(loaded(tmp_path), network(1).state_dict())
