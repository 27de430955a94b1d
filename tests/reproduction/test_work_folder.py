"""The folders are tested before a run, and one process works in them."""

from __future__ import annotations

import errno
import os

import pytest
from support.runs import places, specs

from accuracy_booster.reproduction import work, work_folder
from accuracy_booster.training.lock import locked


def test_folders_that_cannot_be_written_are_told_before_a_run(tmp_path, monkeypatch, no_process):
    def refuse(*_, dir, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(work_folder.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"cannot write to .*results: Read-only file system"):
        work(specs(), places(tmp_path))


def test_two_queues_do_not_work_in_one_folder(tmp_path, no_process):
    here = places(tmp_path)
    here.work.mkdir()
    with locked(here.work), pytest.raises(ValueError, match="another `reproduce run` works in"):
        work(specs(), here)
