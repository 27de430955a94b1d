"""A lack of shared memory is told in time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from accuracy_booster.data import shared_memory
from accuracy_booster.errors import TrainingStopped

pytestmark = pytest.mark.forks
FULL = """
import sys, torch
from accuracy_booster.data.batches import Loader
from accuracy_booster.data.images import TensorImages
images = TensorImages(torch.zeros(64, 3, 64, 64, dtype=torch.uint8), [0] * 64)
shape = (3, 64, 64) if sys.argv[1] == "told" else None
loader = Loader(images, torch.clone, 16, shuffled=False, workers=2, shape=shape)
try:
    for _ in loader.batches(0):
        pass
except Exception as e:
    print(type(e).__name__, e)
"""


@pytest.mark.parametrize("told", ["told", "untold"])
def test_full_shared_memory(told):
    """Before the workers start where a batch's size is known, else from the worker."""
    mount = "mount -t tmpfs -o size=128k none /dev/shm"
    space = ["unshare", "-m", "sh", "-c"]
    allowed = shutil.which("unshare") and not subprocess.call([*space, mount], stderr=-3)
    if not allowed:
        pytest.skip("needs the right to mount a file system in a namespace of its own (unshare -m)")
    words = f'{mount}; exec "$@"'
    command = [*space, words, "sh", sys.executable, "-c", FULL, told]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    (last,) = done.stdout.splitlines()
    assert last.startswith("TrainingStopped ")
    for word in ("KiB are free in /dev/shm", "--workers 0", "--batch_size", "--shm-size"):
        assert word in last
    assert ("processes that load images need" in last) == (told == "told")


def test_the_shared_memory_that_is_needed(monkeypatch):
    found = os.statvfs_result((4096, 4096, 100, 100, 50, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    shared_memory.check_room(4, 100, 1, 4096)
    shared_memory.check_room(10_000, 10, 1, 4096)
    with pytest.raises(TrainingStopped, match=r"4 processes .* need 3\.4 MiB .* 200 KiB are free"):
        shared_memory.check_room(4, 100, 96, 4096)
