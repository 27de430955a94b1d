"""The process that makes one run: starting it, stopping it, and what it does.

Each run has a process of its own. So it leaves no memory or compiled code behind, and a crash ends
nothing else. The process reads its run from its arguments. It stops when its standard input is
closed, which happens as soon as the process that started it has ended in any way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from accuracy_booster.errors import CannotWrite, TrainingInterrupted, TrainingStopped
from accuracy_booster.reproduction.places import Places
from accuracy_booster.reproduction.specs import Spec

# `python -m` would load this module twice, and would import from the working directory.
CODE = (
    "import sys; sys.path[:] = {path!r}\nfrom accuracy_booster.reproduction import run_process\n"
    "sys.exit(run_process.main())"
)
LOWEST = 19  # the lowest priority of a process (nice)
NO_ROOM = 74  # the exit code for a full disk: EX_IOERR of sysexits.h
WHEN_THERE_IS_ROOM = "when there is room again, the same command goes on"


def start(
    spec: Spec, places: Places, *, log: IO[str] | None = None, nice: bool = True
) -> subprocess.Popen[bytes]:
    """Start the process; it ends when the `stdin` of the returned object is closed.

    Args:
        log: the file that receives what the process prints.
        nice: whether it gets the lowest priority.
    """
    words = [json.dumps(spec.to_json()), json.dumps(places.absolute().to_json())]
    words.append(str(LOWEST if nice else 0))
    return subprocess.Popen(
        [sys.executable, "-c", CODE.format(path=_search_path()), *words],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        # Threads that wait for one another must sleep. At the lowest priority, threads that spin
        # keep the very threads that they wait for off the processor.
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        # Ctrl-C on the terminal reaches only the parent, which then stops this process
        start_new_session=True,
    )


def _search_path() -> list[str]:
    """The places that this process imports from, without the working directory."""
    return [os.path.abspath(place) for place in sys.path if place]


def stop(process: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    """Ask a process to save a checkpoint and end; kill it after `patience` seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def last_line(log: Path) -> str:
    """The last line that a failed process printed."""
    lines = log.read_text(errors="replace").splitlines()
    return (lines[-1].strip()[:500] if lines else "") or "no message"


def _stop_with_the_parent() -> None:
    """Send SIGTERM to this process when its standard input is closed: the parent has ended then."""

    def listen() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True, name="parent").start()


def main() -> int:
    """Make the run that the arguments name; returns the exit code."""
    spec, places = Spec.from_json(json.loads(sys.argv[1])), json.loads(sys.argv[2])
    with contextlib.suppress(OSError, AttributeError):  # Windows has no such priorities
        os.nice(int(sys.argv[3]))
    _stop_with_the_parent()
    return make(spec, Places.from_json(places))


def make(spec: Spec, places: Places) -> int:
    """Make a run; returns an exit code. On stderr stands why it is not 0."""
    from accuracy_booster.reproduction.performing import perform

    try:
        perform(spec, places)
    except TrainingInterrupted as e:
        return 128 + e.signal
    except (ValueError, OSError, TrainingStopped) as e:
        full = _cannot_write(e)
        print(full or e, file=sys.stderr, flush=True)
        return NO_ROOM if full else 1
    return 0


def _cannot_write(error: BaseException | None) -> CannotWrite | None:
    """The `CannotWrite` that caused an error, or None."""
    while error is not None and not isinstance(error, CannotWrite):
        error = error.__cause__
    return error
