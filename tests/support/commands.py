"""Run a command of the command line within a test."""

from accuracy_booster.cli import main


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err
