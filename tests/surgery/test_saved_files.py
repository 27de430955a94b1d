"""Both files of a save belong together after any interruption; damage is an error."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from support.files import edit_json, without_hash
from support.processes import forks, in_child, wait
from support.saves import loaded, network, same

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.errors import CannotWrite

INFO, TENSORS = "booster.json", "booster.safetensors"


class Interrupted(BaseException):
    """What no handler of the package catches, like a kill."""


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
            without_hash(path / TENSORS)
            edit_json(path / INFO, lambda info: info.pop("tensors"))
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
    assert sorted(p.name for p in path.iterdir()) == [INFO, TENSORS]


@forks
@pytest.mark.parametrize("where", [["layer1.0.bn2"], None])
def test_a_process_killed_between_the_two_files_leaves_one_whole_save(where, tmp_path):
    """The new save has other sites and another block, so a mixture of both could not load."""
    folder = tmp_path / "save"
    ab.save(network(1), folder)
    before = {name: (folder / name).read_bytes() for name in (INFO, TENSORS)}
    torch.manual_seed(0)
    new = ab.create_model("resnet8")
    ab.boost(new, "se", **({} if where is None else {"where": where}))
    real_write = files.write

    def write_until_json(path, content, **options):
        if path.name == INFO:
            os.kill(os.getpid(), signal.SIGKILL)
        real_write(path, content, **options)

    def save_and_die():
        files.write = write_until_json
        ab.save(new, folder)

    assert wait(in_child(save_and_die, tmp_path / "log")) == -signal.SIGKILL
    assert (folder / INFO).read_bytes() == before[INFO]
    assert (folder / TENSORS).read_bytes() != before[TENSORS]
    assert same(loaded(folder), new.state_dict())


def test_files_of_two_saves_are_never_combined(tmp_path):
    """What booster.safetensors holds of booster.json counts; without it, both are refused."""
    one, other = network(1), network(2)
    ab.save(one, tmp_path / "one")
    ab.save(other, tmp_path / "other")
    edit_json(tmp_path / "one" / INFO, lambda info: info["sites"].pop())
    (tmp_path / "other" / INFO).write_bytes((tmp_path / "one" / INFO).read_bytes())
    assert same(loaded(tmp_path / "other"), other.state_dict())
    without_hash(tmp_path / "other" / TENSORS)
    with pytest.raises(
        ValueError, match=r"booster\.safetensors is not the file that booster\.json"
    ):
        loaded(tmp_path / "other")


def test_a_save_of_a_version_without_hashes_loads(tmp_path):
    model = network(1)
    ab.save(model, tmp_path)
    without_hash(tmp_path / TENSORS)
    edit_json(tmp_path / INFO, lambda info: info.pop("tensors"))
    assert same(loaded(tmp_path), model.state_dict())


@pytest.mark.parametrize("name", [INFO, TENSORS])
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
