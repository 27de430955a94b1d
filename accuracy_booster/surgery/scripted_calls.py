"""Be told of calls of scripted functions, which torch's function modes do not see.

A `TorchFunctionMode` sees each function of torch that is called from Python. A function of
`torch.jit.script` runs inside its interpreter: the mode sees neither the call nor what happens in
it, and torch has no hook for such calls (scripted *modules* have hooks). So
`torch.jit.ScriptFunction.__call__` is replaced while somebody listens, and only then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

Listener = Callable[[tuple[Any, ...], dict[str, Any], Any], None]

# Who listens in this thread: a call in another thread has nothing to do with this one's pass.
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class _Patch:
    """`torch.jit.ScriptFunction.__call__` is replaced while at least one thread listens.

    The method belongs to the whole process, so threads that listen at the same time share one
    replacement. If each put back what it found, one of them could put back the other's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listening = 0
        self._original: Callable[..., Any] | None = None

    def begin(self) -> None:
        with self._lock:
            self._listening += 1
            if self._listening == 1:
                self._original = original = torch.jit.ScriptFunction.__call__

                def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                    result = original(self, *args, **kwargs)
                    if (listener := _listener.get()) is not None:
                        listener(args, kwargs, result)
                    return result

                torch.jit.ScriptFunction.__call__ = call  # type: ignore[method-assign] # see above

    def end(self) -> None:
        with self._lock:
            self._listening -= 1
            if self._listening == 0:
                torch.jit.ScriptFunction.__call__ = self._original  # type: ignore # see above
                self._original = None


_patch = _Patch()


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Call `listener(args, kwargs, result)` after each scripted function that this thread calls."""
    token = _listener.set(listener)
    _patch.begin()
    try:
        yield
    finally:
        _patch.end()
        _listener.reset(token)
