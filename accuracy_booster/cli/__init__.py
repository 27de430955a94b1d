"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from accuracy_booster.cli import (
    bench,
    counts,
    detect,
    gates,
    inspection,
    networks,
    prune,
    reproduce,
    runs,
)
from accuracy_booster.cli.base import (
    PROGRAM,
    HelpFormatter,
    Parser,
    check_configs,
    check_words,
    explicit,
    normalise,
    say_json,
)
from accuracy_booster.errors import (
    TrainingInterrupted,
    TrainingStopped,
    is_out_of_memory,
    shortened,
    unknown,
)
from accuracy_booster.progress import printable
from accuracy_booster.training.presets import PRESETS

COMMANDS = {
    **runs.COMMANDS,
    **detect.COMMANDS,
    **networks.COMMANDS,
    **bench.COMMANDS,
    **inspection.COMMANDS,
    **gates.COMMANDS,
    **prune.COMMANDS,
    **counts.COMMANDS,
    **reproduce.COMMANDS,
}


LINE = 2000  # characters of an error or a warning; one that echoes a long value is cut


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0; 1 where training cannot go on; 2 for input it cannot use; 128 + the signal if interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with warnings.catch_warnings(), _encodable(sys.stdout):
            warnings.showwarning = _show_warning
            code = _main([word for word in words if word != "--debug"])
            sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as e:
        if debug:
            raise
        if isinstance(e, KeyboardInterrupt):
            _tell("interrupted", program=False)
            return 130
        if isinstance(e, OSError) and e.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            # stdout is closed or full: nothing more goes there
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(e, BrokenPipeError):
                return 141  # as a shell reports it
        if isinstance(e, TrainingInterrupted):
            if os.environ.get("RANK", "0") == "0":
                _tell(str(e))
            return 128 + e.signal
        if is_out_of_memory(e):
            reason = shortened(" ".join(str(e).split()), 300) or type(e).__name__
            _tell(
                f"error: out of memory ({reason}); use a smaller batch, --accumulate, a smaller "
                "image_size or a smaller network"
            )
            return 1
        if isinstance(e, (RecursionError, OverflowError)):
            what = "is nested too deeply" if isinstance(e, RecursionError) else "has a huge number"
            _tell(f"error: the input {what} ({shortened(str(e), 300)})")
            return 2
        if not isinstance(e, (ValueError, TrainingStopped, OSError)):
            raise
        _tell(f"error: {e}")
        return 2 if isinstance(e, ValueError) else 1


@contextmanager
def _encodable(stream: Any) -> Iterator[None]:
    """Let a stream escape what its encoding lacks, such as ± on a terminal of ASCII."""
    before = getattr(stream, "errors", None)
    if before is None or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if not stream.closed:
            stream.reconfigure(errors=before)


def _tell(text: str, *, program: bool = True) -> None:
    """One line on stderr, if that can still be written to: printable, and not endless."""
    line = shortened(printable(shortened(" ".join(text.split()), LINE)), LINE)
    with suppress(OSError):
        print(f"{PROGRAM}: {line}" if program else line, file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    _tell(f"warning: {message}")


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from accuracy_booster.version import __version__

        print(f"{PROGRAM} {__version__}")
        return 0
    name, rest = _named(words)
    if name not in COMMANDS:
        print(_overview(name))
        return 0
    command = COMMANDS[name]
    parser = Parser(
        prog=f"{PROGRAM} {name}",
        description=f"{command.about}\n\nExample: {command.example}",
        formatter_class=HelpFormatter,
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
    )
    command.arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    rest = normalise(rest)
    check_words(rest)
    check_configs(rest)
    given = explicit(parser.parse_args(rest, defaults=False))
    as_json = given.pop("json", False)
    given.pop("debug", None)
    value, show, *code = command.run(given)
    if os.environ.get("RANK", "0") != "0":
        return 0  # of torchrun's processes the first one tells
    if as_json and value is not None:
        say_json(value)
    else:
        show()
    return code[0] if code else 0


def _named(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name and the words after it; or a group's name, to be told what is in it.

    Raises:
        ValueError: for a name that is no command's, with the nearest.
    """
    name, *rest = words
    if name in COMMANDS:
        return name, rest
    group = [command.partition(" ")[2] for command in COMMANDS if command.startswith(f"{name} ")]
    if not group:
        raise unknown("command", name, COMMANDS, f"see {PROGRAM} --help")
    if not rest or rest[0] in ("-h", "--help"):
        return name, rest
    if rest[0] not in group:
        raise unknown(f"{name} command", rest[0], group, f"see {PROGRAM} {name} --help")
    return f"{name} {rest[0]}", rest[1:]


def _overview(group: str = "") -> str:
    """What `--help` shows: all commands, or those of a group."""
    shown = {n: c for n, c in COMMANDS.items() if not group or n.startswith(f"{group} ")}
    width = max(map(len, shown))
    lines = [
        f"usage: {' '.join(filter(None, (PROGRAM, group)))} COMMAND ...",
        "",
        "Make convolutional networks more accurate by re-calibrating their channels.",
        "",
        *(f"  {name:<{width}}  {command.about}" for name, command in shown.items()),
        "",
        f"{PROGRAM} COMMAND --help shows a command's options and an example.",
    ]
    if not group:
        lines.append(f"Presets of settings: {', '.join(PRESETS)}.")
    return "\n".join(lines)
