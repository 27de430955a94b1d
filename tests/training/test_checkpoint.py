"""Checkpoints: what comes back, that no code runs, and that a damaged one costs no other one."""

import errno
import hashlib
import json
import math
import os
import pickletools
import struct
from pathlib import Path

import pytest
import torch
from support.trainings import flip

from accuracy_booster.errors import TrainingStopped
from accuracy_booster.training import checkpoint


def make(run, epochs=(1,), **more):
    """Checkpoints whose one tensor is their epoch; the paths."""
    return [
        checkpoint.save(run, e, 0, {"x": torch.full((50,), float(e))}, {"epoch": e}, **more)
        for e in epochs
    ]


def loaded_epoch(run):
    saved, problems = checkpoint.load(run)
    return None if saved is None else saved.values["epoch"], problems


def test_tensors_come_back_bit_for_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, 4, 5, generator=generator)
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45])
    tied = torch.randn(4, generator=generator)
    tensors = {
        **{"f32": noise, "f64": noise.double(), "f16": noise.half(), "bf16": noise.bfloat16()},
        **{"odd": odd, "odd bf16": odd.bfloat16()},
        **{"count": torch.tensor(2**62 + 1), "u8": torch.arange(5, dtype=torch.uint8)},
        **{"bool": noise > 0, "empty": torch.empty(0, 3), "scalar": torch.tensor(1.5)},
        **{"last": noise.contiguous(memory_format=torch.channels_last)},
        **{"view": noise[:, ::2], "tied": tied, "tied too": tied, "transposed": noise.mT},
        **{"parameter": torch.nn.Parameter(noise[0])},
    }
    path = checkpoint.save(tmp_path, 1, 2, tensors, {})
    saved, problems = checkpoint.load(tmp_path)
    assert problems == []
    assert saved.path == path
    assert saved.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        got = saved.tensors[name]
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape), name
        # compared as bytes: NaN equals NaN, and -0.0 is not 0.0
        first, second = (t.detach().contiguous().flatten() for t in (got, tensor))
        assert torch.equal(first.view(torch.uint8), second.view(torch.uint8)), name
    assert saved.tensors["tied"].data_ptr() != saved.tensors["tied too"].data_ptr()


def test_values_come_back_to_the_last_bit(tmp_path):
    floats = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2**-1074, math.pi]
    values = {
        **{"floats": floats, "whole": 2**80, "none": None, "flag": True},
        **{"history": [{"loss": 0.1, "top1": 33.333333333333336}], "text": "é\n'\"", "nested": {}},
    }
    checkpoint.save(tmp_path, 0, 3, {}, values)
    got = checkpoint.load(tmp_path)[0].values
    assert got == values
    assert [struct.pack("d", f) for f in got["floats"]] == [struct.pack("d", f) for f in floats]
    assert isinstance(got["flag"], bool)


def test_loading_cannot_run_code(tmp_path):
    """The file is safetensors: a JSON header and bytes; nothing in it is a pickle."""
    (path,) = make(tmp_path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert header["x"]["dtype"] == "F32"
    assert len(content) == 8 + length + 200
    with pytest.raises(Exception, match=r"opcode|unpickl|pickle|at position|STOP|expected"):
        list(pickletools.genops(content))


def test_the_name_and_the_manifest_hold_the_hash(tmp_path):
    (path,) = make(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"epoch0001-step000000-{digest[:16]}.safetensors"
    rows = json.loads((tmp_path / "checkpoints/manifest.json").read_text())["checkpoints"]
    assert rows == [{"file": path.name, "bytes": path.stat().st_size, "sha256": digest}]


def test_the_newest_two_stay(tmp_path):
    first, second, third = make(tmp_path, (1, 2, 3))
    assert not first.exists()
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [second.name, third.name, "manifest.json"]
    )
    assert loaded_epoch(tmp_path) == (3, [])
    make(tmp_path, (4,), keep=1)
    assert len(list(folder.iterdir())) == 2
    assert loaded_epoch(tmp_path) == (4, [])


def test_the_newest_is_the_furthest_not_the_last_by_text(tmp_path):
    for epoch, step in ((1, 999_999), (1, 1_000_000), (10_000, 0), (9_999, 5)):
        checkpoint.save(tmp_path, epoch, step, {}, {"epoch": (epoch, step)}, keep=9)
    assert loaded_epoch(tmp_path) == ([10_000, 0], [])


def test_the_same_place_twice(tmp_path):
    assert make(tmp_path) == make(tmp_path)
    assert loaded_epoch(tmp_path) == (1, [])


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_checkpoint_that_finds_no_room_costs_no_earlier_one(tmp_path, monkeypatch, where):
    make(tmp_path, (1, 2))
    before = sorted((tmp_path / "checkpoints").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os if where == "fsync" else Path, where, full)
        with pytest.raises(TrainingStopped):
            make(tmp_path, (3,))
    assert sorted((tmp_path / "checkpoints").iterdir()) == before
    assert loaded_epoch(tmp_path) == (2, [])


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(TrainingStopped, match="cannot write"):
        make(tmp_path)


@pytest.mark.parametrize("kind", ["bit", "header", "cut", "empty", "longer", "zeros"])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, kind, manifest):
    _, newest = make(tmp_path, (1, 2))
    content = newest.read_bytes()
    if kind in ("bit", "header"):
        flip(newest, -5 if kind == "bit" else 20)
    else:
        newest.write_bytes(
            {"cut": content[:-7], "empty": b"", "longer": content + b"\0"}.get(
                kind, bytes(len(content))
            )
        )
    if not manifest:
        (tmp_path / "checkpoints/manifest.json").unlink()
    epoch, problems = loaded_epoch(tmp_path)
    assert epoch == 1
    (problem,) = problems
    assert str(newest) in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"checkpoints": 3}',
        b'{"checkpoints": [{"file": "x"}]}',
        b"\xff",
    ],
)
def test_a_damaged_manifest_costs_nothing(tmp_path, content):
    make(tmp_path, (1, 2))
    manifest = tmp_path / "checkpoints/manifest.json"
    manifest.write_bytes(content)
    epoch, (problem,) = loaded_epoch(tmp_path)
    assert epoch == 2
    assert str(manifest) in problem
    make(tmp_path, (3,))  # and is mended
    assert loaded_epoch(tmp_path) == (3, [])


def test_a_manifest_whose_hash_was_changed_is_damaged_itself(tmp_path):
    make(tmp_path, (1, 2))
    manifest = tmp_path / "checkpoints/manifest.json"
    rows = json.loads(manifest.read_text())
    rows["checkpoints"][1]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(rows))
    epoch, problems = loaded_epoch(tmp_path)
    assert epoch == 2
    assert str(manifest) in problems[0]


def test_a_missing_manifest_costs_nothing(tmp_path):
    make(tmp_path, (1, 2))
    (tmp_path / "checkpoints/manifest.json").unlink()
    assert loaded_epoch(tmp_path)[0] == 2
    make(tmp_path, (3,))
    assert loaded_epoch(tmp_path) == (3, [])


def test_two_good_ones_stay_after_a_damaged_one(tmp_path):
    _, newest = make(tmp_path, (1, 2))
    flip(newest)
    assert loaded_epoch(tmp_path)[0] == 1
    (again,) = make(tmp_path, (3,))
    flip(again)
    assert loaded_epoch(tmp_path)[0] == 1


def test_two_good_ones_stay_after_a_damaged_manifest(tmp_path):
    make(tmp_path, (1, 2))
    (tmp_path / "checkpoints/manifest.json").write_bytes(b"{")
    (newest,) = make(tmp_path, (3,))
    flip(newest)
    assert loaded_epoch(tmp_path)[0] == 2


def test_a_missing_checkpoint_is_named(tmp_path):
    _, newest = make(tmp_path, (1, 2))
    newest.unlink()
    epoch, (problem,) = loaded_epoch(tmp_path)
    assert epoch == 1
    assert f"{newest} is missing" in problem


def test_all_damaged_is_none_and_all_are_named(tmp_path):
    paths = make(tmp_path, (1, 2))
    for path in paths:
        flip(path)
    saved, problems = checkpoint.load(tmp_path)
    assert saved is None
    assert all(any(str(path) in problem for problem in problems) for path in paths)


def test_no_checkpoints_are_no_problem(tmp_path):
    assert checkpoint.load(tmp_path) == (None, [])
    (tmp_path / "checkpoints").mkdir()
    assert checkpoint.load(tmp_path) == (None, [])


def test_what_a_killed_write_left_is_passed_over_and_swept(tmp_path):
    folder = tmp_path / "checkpoints"
    (path,) = make(tmp_path)
    left = folder / f".epoch0009-step000000-{'0' * 16}.safetensors.partial"
    left.write_bytes(b"half a checkpoint")
    assert loaded_epoch(tmp_path) == (1, [])
    make(tmp_path, (2,))
    assert not left.exists()
    assert path.exists()


def test_a_stranger_among_them_is_named_and_left(tmp_path):
    make(tmp_path, (1,))
    stranger = tmp_path / "checkpoints/best.safetensors"
    stranger.write_bytes(b"mine")
    epoch, (problem,) = loaded_epoch(tmp_path)
    assert epoch == 1
    assert str(stranger) in problem
    make(tmp_path, (2, 3))
    assert stranger.read_bytes() == b"mine"


def test_a_file_of_another_kind_under_a_good_name_is_named(tmp_path):
    """Its hash agrees with its name, but it is no checkpoint."""
    make(tmp_path, (1,))
    content = b"not safetensors at all"
    digest = hashlib.sha256(content).hexdigest()
    path = tmp_path / f"checkpoints/epoch0002-step000000-{digest[:16]}.safetensors"
    path.write_bytes(content)
    epoch, (problem,) = loaded_epoch(tmp_path)
    assert epoch == 1
    assert f"{path} cannot be read" in problem
