"""What commands print: no text moves the cursor, adds a line or ends in an encoding error."""

from __future__ import annotations

import json

import pytest
from support.hostile import (
    EVIL,
    MARKUP,
    NOT_UTF8,
    harmless,
    python,
)

from accuracy_booster import progress
from accuracy_booster.cli import output
from accuracy_booster.progress import printable


@pytest.mark.parametrize("name", [EVIL, MARKUP, NOT_UTF8], ids=["controls", "markup", "bytes"])
def test_the_console_the_tables_and_the_notes(name, capsys):
    progress.note(f"note {name}")
    progress.console().print(f"line {name}")
    with progress.bars() as shown_bars:
        shown_bars.console.print(f"bars {name}")
    output.say(f"say {name}", name)
    output.print_table([f"head {name}"], [[f"cell {name}"]])
    output.say_json({"name": name})
    out, err = capsys.readouterr()
    assert harmless(out + err)
    for what in ("note", "line", "bars"):
        assert f"{what} {printable(name)}\n" in err
    for what in ("say", "head", "cell"):
        assert f"{what} {printable(name)}" in out
    assert json.loads(out.splitlines()[-1]) == {"name": name}


def test_a_name_does_not_put_a_line_of_its_own_on_the_terminal(capsys):
    output.say("x\naccuracy-booster: error: forged")
    progress.note("x\naccuracy-booster: error: forged")
    out, err = capsys.readouterr()
    assert out.count("\n") == err.count("\n") == 1


def test_results_on_a_stream_of_ascii(tmp_path):
    """± and box characters are escaped there instead of ending in UnicodeEncodeError."""
    done = python("-m", "accuracy_booster", "models", "resnet8", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    code = "from accuracy_booster.cli import main; import sys; sys.exit(main())"
    done = python("-c", code, "plan", "Ünknown\udcff", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2, done.stderr
    assert "unknown model" in done.stderr


def test_json_is_exact(capsys):
    value = {"a\x7f\x1b\u202e\udcff": [1.5, None, "±"], "b": {"c": "[/x]"}}
    output.say_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert harmless(out)
    assert out.isascii()
