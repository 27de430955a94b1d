"""Files that are written: the old or the new one after any interruption, and hashed."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.files import edit_json, without_hash
from support.processes import cannot_fork
from torch import nn

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.errors import CannotWrite, TrainingStopped
from accuracy_booster.report import page
from accuracy_booster.surgery import attached, storage


class Interrupted(BaseException):
    """What no handler of ours catches, like a kill."""


def network(seed):
    """A boosted network whose gates are a function of the seed."""
    torch.manual_seed(0)
    model = ab.create_model("resnet8", block="ab")
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


def in_a_small_process(work, limit=4096):
    """Fork, allow files of so many bytes, work; returns what it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            work()
            said = "nothing"
        except BaseException as e:
            said = f"{type(e).__name__}: {e}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


@pytest.mark.forks
@cannot_fork
def test_files_that_find_no_room_stay_as_they_were(tmp_path):
    """`ulimit -f`: a report, a save, and any file that is written."""
    page.write_page(tmp_path / "report.html", "old", "lead", [])
    ab.save(network(1), tmp_path / "save")
    files.write_json(tmp_path / "x.json", {"a": 1})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    sections = [{"title": "x", "text": "y" * 10_000}]
    for work in (
        lambda: page.write_page(tmp_path / "report.html", "new", "lead", sections),
        lambda: ab.save(network(2), tmp_path / "save"),
        lambda: files.write_json(tmp_path / "x.json", {"a": "b" * 10_000}),
    ):
        assert in_a_small_process(work).startswith("CannotWrite: cannot write ")
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_json_and_tensors_that_were_changed_are_told(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"b": [1, 2.5, None], "a": {"é": "x"}})
    assert files.read_json(path) == {"b": [1, 2.5, None], "a": {"é": "x"}}
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert files.read_json(path)["a"] == {"é": "x"}  # the order of keys is no change
    edit_json(path, lambda value: value.update(a=3))
    assert files.read_json(path)["a"] == 3  # without a hash nothing can be checked
    files.write_json(path, {"b": 1})
    path.write_text(path.read_text().replace('"b": 1', '"b": 2'))
    with pytest.raises(ValueError, match="was changed since it was written"):
        files.read_json(path)


def test_packed_tensors_come_back_and_are_the_same_bytes(tmp_path):
    tensors = {"a": torch.randn(3, 4).bfloat16(), "b": torch.arange(3), "empty": torch.ones(0, 2)}
    tensors |= {"scalar": torch.tensor(True), "last": torch.randn(1, 2, 3, 4).mT}
    first, digest = files.pack(tensors, {"x": 1, "y": "é"})
    assert first == files.pack(dict(reversed(tensors.items())), {"x": 1, "y": "é"})[0]
    path = tmp_path / "x.safetensors"
    path.write_bytes(first)
    packed = files.unpack(path)
    assert (packed.values, packed.sha256) == ({"x": 1, "y": "é"}, digest)
    assert same(packed.tensors, tensors)
    assert same(load_file(path), tensors)  # as any other program reads it
    without_hash(path)
    assert files.unpack(path).sha256 is None


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.rmtree(folder)
    with pytest.raises(TrainingStopped, match="No such file"):
        files.write(folder / "x", b"", make_folder=False)
    assert not folder.exists()
