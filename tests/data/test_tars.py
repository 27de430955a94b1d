"""Tar files: leftovers of macOS, links, and files that are cut."""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import psutil
import pytest
import torch
from support.datasets import (
    labels,
    shown,
)

from accuracy_booster.data import load_data


def test_a_tar_that_macos_wrote(tmp_path, png):
    """bsdtar stores ._x.png beside x.png; the reader of timm takes both for images."""
    import tarfile

    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            for name in ("a/0.png", "b/0.gif", "a/._0.png", "__MACOSX/._0.png", "._b/0.png"):
                flat = np.full((8, 8, 3), 200 if name == "b/0.gif" else 90, np.uint8)
                content = png(flat, "GIF" if name == "b/0.gif" else "PNG")
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    (tmp_path / "._train.tar").write_bytes(b"x")
    data = load_data(str(tmp_path))
    assert data.classes == ("a", "b")
    assert labels(data) == [0, 1]
    assert shown(data).float().mean((1, 2, 3)).tolist() == [90, 200]


pytestmark = pytest.mark.forks


@pytest.fixture
def tars(tmp_path, png, pixels):
    root = tmp_path / "tars"
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for name, link in (("a/x.png", None), ("a/link.png", "/etc/passwd"), ("b/x.png", None)):
                member = tarfile.TarInfo(name)
                content = b"" if link else png(pixels(name, 70, 70))
                member.size = len(content)
                if link:
                    member.type, member.linkname = tarfile.SYMTYPE, link
                tar.addfile(member, io.BytesIO(content))
    return root


def test_a_pipe_called_like_a_tar_is_not_opened(tars):
    (tars / "val.tar").unlink()
    os.mkfifo(tars / "val.tar")
    with pytest.raises(ValueError, match="has no test split"):
        load_data(str(tars))


def test_a_tar_that_is_cut_is_told(tars):
    assert load_data(str(tars)).loaders["test"].dataset.images.labels.tolist() == [0, 1]
    with tarfile.open(tars / "val.tar") as tar:
        last = tar.getmembers()[-1].offset
    with open(tars / "val.tar", "r+b") as file:
        file.truncate(last + 200)
    with pytest.warns(UserWarning, match=r"val\.tar does not end as a tar file ends"):
        load_data(str(tars))


def test_processes_share_no_open_tar(tars):
    """Several that read from one place of one file would get each other's bytes."""
    data = load_data(str(tars))
    images = data.loaders["test"].dataset.images
    first = images[0][0]
    offset = [f for f in psutil.Process().open_files() if f.path.endswith("val.tar")]
    assert not offset
    assert torch.equal(images[0][0], first)
    assert np.asarray(first).shape == (3, 70, 70)
