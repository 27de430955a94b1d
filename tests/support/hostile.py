"""Names, values and files that somebody could use to do harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import accuracy_booster as ab

PACKAGE = str(Path(ab.__file__).parents[1])
# modules that would be imported from the current directory if it were looked at
TRAPS = ("torch", "numpy", "yaml", "rich", "subprocess", "typing_extensions", "sitecustomize")


def python(*words, cwd=None, executable=sys.executable, **environment):
    """A process of its own, on this package."""
    return subprocess.run(
        [executable, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PACKAGE, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )


def set_traps(folder):
    for name in TRAPS:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'SPRUNG')!r}, 'a').write('{name} ')"
        )
    return folder


def nested(depth, inner=None):
    value = inner if inner is not None else []
    for _ in range(depth):
        value = [value]
    return value


# colours, a title, C1's CSI, DEL, a carriage return, bidi controls, a space of no width
EVIL = "a\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\rb\u202egnp.exe\u2066\u200b\u2028"
MARKUP = "m[/x][bold]n[red]:smile:[link=file:///]"
NOT_UTF8 = os.fsdecode(b"\xff\xfe")


def harmless(text):
    """Whether a terminal that shows the text only shows it."""
    return all(c.isprintable() or c in "\n" for c in text)
