"""Stop a training at a signal: SIGTERM, SIGINT or SIGHUP.

The first signal asks the training to stop after the step under way, and to save a checkpoint. A
second one ends the process at once, and so does a step (or a compilation) that takes longer than
`PATIENCE` seconds after the first; the last checkpoint is kept in both cases. A thread receives the
signals, because the main thread may be inside a long operation.

A signal that the process was told to ignore stays ignored: SIGHUP under nohup, SIGINT in the
background of a script. A terminal that closes sends SIGHUP more than once, so a repeated SIGHUP
does not count as a second signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from types import TracebackType
from typing import Any

from accuracy_booster.progress import printable

PATIENCE = 8.0  # seconds
# torchrun sends a signal on to processes that have received it already: two signals within this
# time count as one
ECHO = 3.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
SIGNALS = (signal.SIGTERM, signal.SIGINT, *([HANGUP] if HANGUP is not None else []))


class StopRequest:
    """Whether a signal has asked the training to stop.

    `with StopRequest(last_words) as stop:` installs the handlers; `stop.signal` is the number of
    the signal, or None. `last_words` are printed if the process must end within a step.
    """

    def __init__(self, last_words: str):
        self.last_words = last_words
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        self._hear, self._tell = socket.socketpair()
        self._tell.setblocking(False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, lambda *_: None)
        if not self._before:
            self._hear.close()
            self._tell.close()
            return self
        self._wakeup = signal.set_wakeup_fd(self._tell.fileno(), warn_on_full_buffer=False)
        self._done = threading.Event()
        threading.Thread(target=self._listen, daemon=True, name="signals").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._before:
            return
        self._done.set()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self._tell.close()  # this ends the thread

    def _listen(self) -> None:
        first = 0.0
        while True:
            try:
                heard = self._hear.recv(1)
            except TimeoutError:
                if not self._done.is_set():
                    self._leave(f"no step ended within {PATIENCE:.0f} s; {self.last_words}")
                return
            except OSError:
                return
            if not heard:
                self._hear.close()
                return
            if heard[0] not in self._before or self._done.is_set():
                continue
            if heard[0] == HANGUP:
                _leave_closed_terminal()
            now = time.monotonic()
            if self.signal is None:
                self.signal, first = heard[0], now
            elif now - first >= ECHO and heard[0] != HANGUP:
                self._leave("")
            self._hear.settimeout(max(0.01, first + PATIENCE - now))

    def _leave(self, words: str) -> None:
        if words:
            with contextlib.suppress(OSError):  # the terminal may be closed
                print(f"accuracy-booster: {printable(words)}", file=sys.stderr, flush=True)
        os._exit(128 + (self.signal or signal.SIGTERM))


def _leave_closed_terminal() -> None:
    """Discard what is printed if the terminal is gone: an error would end the training."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def ignore_in_worker(_: int = 0) -> None:
    """Make a data loader's worker ignore signals: the training stops its workers itself."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
