"""Writing a file: the old or the new one after any interruption, and hashed."""

import errno
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.files import edit_json, without_hash
from support.processes import forks
from torch import nn

import accuracy_booster as ab
from accuracy_booster import files
from accuracy_booster.errors import TrainingStopped
from accuracy_booster.report import page
from accuracy_booster.surgery import attached
from accuracy_booster.training import checkpoint


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["fsync", "replace", "open", "write"])
def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, where):
    path = tmp_path / "deep" / "file"
    checkpoint.write(path, b"old")
    with monkeypatch.context() as patch:
        if where == "fsync":
            patch.setattr(os, "fsync", full)
        elif where == "write":
            real = Path.open

            def opened(self, *args, **kwargs):
                class File:
                    def __enter__(self):
                        return self

                    def __exit__(self, *error):
                        file.close()

                    def write(self, content):
                        file.write(content[:2])
                        full()

                file = real(self, *args, **kwargs)
                return File()

            patch.setattr(Path, "open", opened)
        else:
            patch.setattr(Path, where, full)
        with pytest.raises(TrainingStopped, match=r"cannot write .*file: No space left") as caught:
            checkpoint.write(path, b"new")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    checkpoint.write(path, b"new")
    assert path.read_bytes() == b"new"


def network(seed):
    """A boosted network whose gates are a function of the seed."""
    torch.manual_seed(0)
    model = ab.create_model("resnet8", block="ab")
    torch.manual_seed(seed)
    for gate in attached(model).values():
        for parameter in gate.parameters():
            nn.init.normal_(parameter)
    return model


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


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


@forks
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
