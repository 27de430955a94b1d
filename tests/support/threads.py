"""Calls from several Python threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


def call_from_threads(call: Callable[[], object], number: int = 4) -> None:
    """Run `call` in so many threads at the same time, and wait for all."""
    workers = [threading.Thread(target=call) for _ in range(number)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
