"""The commit of the checkout that a run is made from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from accuracy_booster.reproduction import environment


def git(folder: Path, *words: str) -> None:
    own = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True)


def commit_of(file: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The commit that a result would hold if the package were at this place."""
    monkeypatch.setattr(environment, "__file__", str(file))
    return environment.this_environment(begun=0.0)["code"]["commit"]


def test_the_commit_is_that_of_a_checkout_which_tracks_the_package(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    (tmp_path / "own.py").write_text("1")
    git(tmp_path, "add", "own.py")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "installed.py").write_text("1")
    commit = commit_of(tmp_path / "own.py", monkeypatch)
    assert re.fullmatch("[0-9a-f]{12}", commit)
    assert commit_of(tmp_path / "installed.py", monkeypatch) is None
    (tmp_path / "own.py").write_text("2")
    assert commit_of(tmp_path / "own.py", monkeypatch) == f"{commit}-dirty"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(Path(environment.__file__), monkeypatch) is None
