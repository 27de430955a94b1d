"""Data as they lie on people's disks: leftovers, links, file kinds, splits, labels, class names."""

# N batch, C channels, H W space

from __future__ import annotations

import pytest

from accuracy_booster.cli import main


def test_help_names_the_options(capsys):
    for command in ("train", "compare", "eval"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        for option in ("--validation", "--interpolation", "--crop_pct", "--crop_mode"):
            assert option in told, (command, option)
