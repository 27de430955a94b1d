"""Have torch compute layer by layer what it can also compute in one operator.

On a CPU or GPU an attention or recurrent layer may run as one operator, inside which nothing can be
counted. On the meta device, which has no such operators, the same layer runs in steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


class _Steps(TorchFunctionMode):
    """Recurrent layers without oneDNN's, cuDNN's and MIOpen's operators; convolutions keep them."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ):
        if getattr(func, "__name__", "") not in RECURRENT:
            return func(*args, **(kwargs or {}))
        with (
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
        ):
            return func(*args, **(kwargs or {}))


@contextmanager
def unfused() -> Iterator[None]:
    """Within it attention, transformer and recurrent layers run in steps."""
    attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _Steps():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
