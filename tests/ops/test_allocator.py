"""Freed memory is kept for the next tensors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from accuracy_booster.ops import allocator

# page faults of the tenth of ten maps of 40 MB, without and with the setting
FAULTS = """
import resource, torch
from accuracy_booster.ops import keep_freed_memory

def faults():
    for _ in range(9):
        torch.ones(10_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_freed_memory(), faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_a_tensor_of_the_size_of_one_before_maps_no_memory():
    """In a process of its own, since the setting stays."""
    command = [sys.executable, "-c", FAULTS]
    before, made, after = subprocess.check_output(command, text=True).split()
    assert made == "True"
    assert int(before) > 100
    assert int(after) < int(before) / 10


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())  # a C library without it
    assert allocator.keep_freed_memory() is False
