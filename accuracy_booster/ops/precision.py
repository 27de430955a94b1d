"""The precision of sums, autocast, and whether this machine really runs bfloat16."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

# It runs in a child process, which dies of SIGILL if the CPU lacks instructions that it announces.
_BF16_PROBE = """
import sys
sys.path[:0] = sys.argv[1:]
import torch
from torch import nn
for channels, batch in ((16, 2), (64, 32), (256, 8)):
    for layout in (torch.contiguous_format, torch.channels_last):
        net = nn.Sequential(
            nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3), nn.Conv2d(channels, channels, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1024), nn.Linear(1024, 100),
        ).to(memory_format=layout)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = net(torch.randn(batch, 3, 16, 16).contiguous(memory_format=layout))
        y.float().sum().backward()
        assert y.isfinite().all()
"""

# what torch imports, which may be installed elsewhere than torch
_NEEDED = ("typing_extensions", "numpy", "sympy", "mpmath", "networkx", "filelock", "jinja2")


@functools.cache
def bf16_works(device_type: str) -> bool:
    """Whether bfloat16 convolutions run on `device_type` ("cpu", "cuda", ...).

    On the CPU a child process tries it, which takes about 3 s once per process. Some virtual
    machines announce matrix instructions, and kill a program that uses them (`Illegal
    instruction`).
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device_type != "cpu":
        return False
    # -I: the child imports nothing from the current directory or PYTHONPATH
    command = [sys.executable, "-I", "-c", _BF16_PROBE, *_torch_directories()]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _torch_directories() -> list[str]:
    """The directories from which this process imported torch and what torch imports."""
    found = []
    for name in ("torch", *_NEEDED):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:
            continue
        folder = Path(os.path.abspath(file)).parent
        found.append(str(folder.parent if Path(file).stem == "__init__" else folder))
    return list(dict.fromkeys(found))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which values of `dtype` are summed: float32 for 16-bit types, else `dtype`."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def without_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """`with without_autocast(x):` autocast is off for x's device."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
