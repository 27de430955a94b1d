"""Where the program starts: it answers Ctrl-C from the first moment, and then calls the command.

Only small modules of Python are imported here. torch and what else a command needs take seconds,
and a signal that breaks off an import would leave modules half made, and show a traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT  # as a shell reports it


def main() -> int:
    """Run the command of this process's words. Returns the exit code."""
    if sys.argv[1:2] == ["script"]:  # Ctrl-C is the script's, as in any program of Python
        from accuracy_booster.cli import main as run_command

        return run_command()
    # a process that was told to ignore Ctrl-C (in the background of a script) goes on doing so
    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeds:
        signal.signal(signal.SIGINT, _on_interrupt)
    try:
        if sys.argv[1:] in (["--version"], ["version"]):
            from accuracy_booster.version import __version__

            print(f"accuracy-booster {__version__}")
            return 0
        if "_ARGCOMPLETE" in os.environ:  # the shell asks how a word can go on
            from accuracy_booster.cli.completion import answer

            answer()
        from accuracy_booster.cli import main as run_command

        return run_command()
    except KeyboardInterrupt:  # between the imports, or as the command ended
        _leave()
    finally:
        if heeds:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own end shows no traceback
    return INTERRUPTED


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """End the process at once within an import; otherwise raise KeyboardInterrupt."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave() -> None:
    with contextlib.suppress(OSError):  # stderr may be closed
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
