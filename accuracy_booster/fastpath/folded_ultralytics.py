"""A folded network of ultralytics in `YOLO.predict`, `val` and `export`, which fuse networks first.

`BaseModel.fuse` folds the norm of each of its units into the convolution, and would fail where
`ab.fold` has done so already. Of a folded network it leaves the units as they are.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


class FuseHead:
    """`fuse` of a folded network: only the head drops the branch that inference does not need."""

    def __init__(self, network: nn.Module):
        self.network = network

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        head = sys.modules["ultralytics.nn.modules.head"].Detect
        for module in self.network.modules():
            if isinstance(module, head):
                module.fuse()
        return self.network


def leave_folded(network: nn.Module) -> None:
    """Have ultralytics' `fuse` leave a folded network as it is; nothing for other networks."""
    tasks = sys.modules.get("ultralytics.nn.tasks")
    if tasks is not None and isinstance(network, tasks.BaseModel):
        network.__dict__["fuse"] = FuseHead(network)
