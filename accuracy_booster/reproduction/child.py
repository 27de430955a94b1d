"""A process that makes one run.

A process for each run leaves no memory or compiled code behind, and one that crashes takes nothing
with it. It reads its run from its arguments and stops when its standard input is closed: that is
when the process that started it has ended, however that was.
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

# without -m, which would load this module twice; nothing is imported from the working directory
CODE = (
    "import sys; sys.path[:] = {path!r}\nfrom accuracy_booster.reproduction import child\n"
    "sys.exit(child.main())"
)
LOWEST = 19  # priority (nice)
NO_ROOM = 74  # exit code, EX_IOERR of sysexits.h
WHEN_THERE_IS_ROOM = "when there is room again, the same command goes on"


def start(
    spec: Spec, places: Places, *, log: IO[str] | None = None, nice: bool = True
) -> subprocess.Popen[bytes]:
    """Start the process; it ends when the `stdin` of what is returned is closed.

    Args:
        nice: give it the lowest priority.
    """
    words = [json.dumps(spec.to_json()), json.dumps(places.absolute().to_json())]
    words.append(str(LOWEST if nice else 0))
    return subprocess.Popen(
        [sys.executable, "-c", CODE.format(path=_search_path()), *words],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        # threads that wait for one another sleep: spinning, they keep those from the processor
        # that they wait for, since everything else on the machine goes before this process
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        # a Ctrl-C on the terminal is the parent's, which then stops this one
        start_new_session=True,
    )


def _search_path() -> list[str]:
    """Where this process imports from, but for the working directory."""
    return [os.path.abspath(place) for place in sys.path if place]


def stop(process: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    """Let a process save where it is and end; kill it if it takes too long."""
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
    """What a process that failed said last."""
    lines = log.read_text(errors="replace").splitlines()
    return (lines[-1].strip()[:500] if lines else "") or "no message"


def _stop_with_the_parent() -> None:
    """End as after SIGTERM when the parent ends."""

    def listen() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True, name="parent").start()


def main() -> int:
    """What the process does; its exit code."""
    spec, places = Spec.from_json(json.loads(sys.argv[1])), json.loads(sys.argv[2])
    with contextlib.suppress(OSError, AttributeError):  # Windows has no such priorities
        os.nice(int(sys.argv[3]))
    _stop_with_the_parent()
    return make(spec, Places.from_json(places))


def make(spec: Spec, places: Places) -> int:
    """Make a run; an exit code, and on stderr why it is not 0."""
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
    """That a file could not be written, where an error was raised from that."""
    while error is not None and not isinstance(error, CannotWrite):
        error = error.__cause__
    return error
