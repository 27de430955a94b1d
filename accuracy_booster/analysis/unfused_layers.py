"""Make torch compute a layer in steps where it could also use one fused operator.

On a CPU or GPU an attention or recurrent layer may run as one operator, inside which `counter` can
count nothing. On the meta device, which has no such operators, the same layer runs in steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


class _RecurrentInSteps(TorchFunctionMode):
    """Runs recurrent layers without the fused operators of oneDNN, cuDNN and MIOpen.

    Other layers, such as convolutions, keep them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") not in RECURRENT:
            return func(*args, **(kwargs or {}))
        with (
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
        ):
            return func(*args, **(kwargs or {}))


@contextmanager
def layers_unfused() -> Iterator[None]:
    """Within it, attention, transformer and recurrent layers run in steps."""
    attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _RecurrentInSteps():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
