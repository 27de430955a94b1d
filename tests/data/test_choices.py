"""The choices of data settings are in the commands' help."""

from __future__ import annotations

from accuracy_booster.cli import main


def test_help_names_the_options(capsys):
    for command in ("train", "compare", "eval"):
        assert main([command, "--help"]) == 0
        told = capsys.readouterr().out
        for option in ("--validation", "--interpolation", "--crop_pct", "--crop_mode"):
            assert option in told, (command, option)
