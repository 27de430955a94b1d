"""Run a command of the command line within a test."""

from accuracy_booster.cli import main


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def assert_refused(capsys, words, parts):
    """A command ends with exit code 2 and, beside warnings, one line with these parts."""
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    lines = [line for line in err.strip().splitlines() if "warning" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("accuracy-booster: error: ")
    for part in parts:
        assert part in lines[0]
