"""SIGTERM, SIGINT and SIGHUP end a training between two steps; a second one ends it at once.

A thread hears of the signal even while the main thread is in a long operation. If the training
has not ended within `PATIENCE` seconds (a long step, a compilation), the process exits on its last
checkpoint. What the process was told to ignore stays ignored: SIGHUP under nohup, SIGINT in the
background of a script. A closing terminal sends SIGHUP more than once, so a repeated one means
nothing.
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
# torchrun passes on what its whole group has heard already: within this time it is one signal
ECHO = 3.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
SIGNALS = (signal.SIGTERM, signal.SIGINT, *([HANGUP] if HANGUP is not None else []))


class StopRequest:
    """`with StopRequest(how_to_go_on) as stop:` then ask `stop.signal` between steps."""

    def __init__(self, last_words: str):
        self.last_words = last_words
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self  # signals are the main thread's
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
        self._tell.close()  # the thread reads its end

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
            with contextlib.suppress(OSError):  # of a terminal that is closed
                print(f"accuracy-booster: {printable(words)}", file=sys.stderr, flush=True)
        os._exit(128 + (self.signal or signal.SIGTERM))


def _leave_closed_terminal() -> None:
    """Send what is printed nowhere, where the terminal is gone: else printing ends the training."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def ignore_in_worker(_: int = 0) -> None:
    """For a loader's worker: the signals are the training's, which ends its workers itself."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
